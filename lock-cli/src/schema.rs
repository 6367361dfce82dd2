//! `fencepost schema`: what a store needs before locks can be kept in it.

use std::io::Write;
use std::process::ExitCode;

use crate::args::{Schema, StoreWithSchema};
use crate::exit::{Failure, SYSTEM, USAGE};
use crate::say::Voice;

pub(crate) fn print(asked: &Schema) -> ExitCode {
    let statements = match asked.store {
        StoreWithSchema::Postgres => postgres(&asked.schema),
    };
    let printed = statements.and_then(|statements| {
        let mut out = std::io::stdout().lock();
        out.write_all(statements.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::new(SYSTEM, format!("they cannot be written: {error}")))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.code;
            Voice::new(false).fail(None, &failure);
            ExitCode::from(code)
        }
    }
}

#[cfg(feature = "postgres")]
fn postgres(schema: &str) -> Result<String, Failure> {
    let options = fencepost::postgres::PostgresOptions::new().schema(schema);
    fencepost::postgres::schema(&options).map_err(|error| Failure::new(USAGE, error.to_string()))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<String, Failure> {
    Err(Failure::new(crate::exit::CONFIG, "this build lacks the store in Postgres: its feature is postgres"))
}
