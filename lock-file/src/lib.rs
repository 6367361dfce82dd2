//! placeholder
/// x
#[derive(Debug, Default)]
pub struct FileConnector;
