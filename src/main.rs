//! The binary of deltajoin: `cli::run` and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    deltajoin::cli::run().into()
}
