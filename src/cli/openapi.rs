//! `sluice openapi`: the API's document, as the server serves it.

use super::CliError;
use crate::http::openapi;
use crate::sys::{Disk as _, RealDisk};
use std::{io::Write as _, path::PathBuf};

/// Print the API's OpenAPI document
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice openapi > openapi.json\n  sluice openapi --v3-0 > openapi-3.0.json\n  \
                        sluice openapi --write openapi")]
pub struct OpenapiArgs {
    /// As OpenAPI 3.0.3, for generators that take nothing newer; the default is 3.1
    #[arg(long)]
    v3_0: bool,
    /// Write both into this folder, as openapi.json and openapi-3.0.json, and print nothing
    #[arg(long, value_name = "DIR", conflicts_with = "v3_0")]
    write: Option<PathBuf>,
}

/// Prints or writes it.
///
/// # Errors
/// What the disk or stdout says.
pub fn run(args: &OpenapiArgs) -> Result<(), CliError> {
    let (document, older) = openapi::document();
    let Some(folder) = &args.write else {
        let text = if args.v3_0 { older } else { document };
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    };
    for (name, text) in [("openapi.json", document), ("openapi-3.0.json", older)] {
        let path = folder.join(name);
        RealDisk
            .write_atomic(&path, text.as_bytes())
            .map_err(|e| CliError::failed(format!("cannot write {}: {e}", path.display())))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
