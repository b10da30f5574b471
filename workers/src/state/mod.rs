//! State that operators keep between epochs.

mod key_set;
mod reference;

pub use key_set::KeySet;
pub use reference::ReferenceTable;
