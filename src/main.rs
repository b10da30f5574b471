//! The binary of deltajoin: `cli::run` and nothing else.

use std::process::ExitCode;

/// Gives memory back to the system after a catch-up, which glibc's allocator does not, and is
/// faster for what one thread allocates and another frees. A build without C code does without.
#[cfg(feature = "kafka")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    deltajoin::cli::run().into()
}
