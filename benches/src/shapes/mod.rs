//! One file a shape.

pub(crate) mod busy;
pub(crate) mod cycle;
pub(crate) mod halves;
pub(crate) mod hand_off;
pub(crate) mod heartbeat;
pub(crate) mod hot;
pub(crate) mod many;
