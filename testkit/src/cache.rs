//! Where programs that tests need are kept, once fetched.
//!
//! Apart, because what fetches them differs. It is outside the target directory, so that
//! `cargo clean` and a fresh clone do not fetch them again.

use std::fs;
use std::path::PathBuf;

/// The folder, which is made if it is not there.
///
/// # Panics
/// If there is no place for it.
pub(crate) fn cache_folder() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = named("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(named("HOME")?).join(".cache")));
    let cache = cache
        .expect("XDG_CACHE_HOME or HOME is set")
        .join("deltajoin");
    fs::create_dir_all(&cache).expect("the cache folder can be made");
    cache
}
