//! Names the build by the time at which it was made: two processes of one job must be the same
//! binary, and equal versions do not say that.

#[allow(
    clippy::disallowed_methods,
    reason = "it tells builds apart, and decides nothing"
)]
fn main() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    println!("cargo:rustc-env=DELTAJOIN_BUILD={seconds:x}");
}
