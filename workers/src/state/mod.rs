//! State that operators keep between epochs.

mod bucket_ring;
mod cold;
mod key_set;
mod recent_rows;
mod reference;
mod segment;

pub use bucket_ring::{BucketRing, Buckets, bytes_of_key};
pub use cold::{Asked, ColdRows, ColdRun, ColdRuns, Found, Freeze, Limit, RowFolder, RowLimit};
pub use key_set::KeySet;
pub use recent_rows::RecentRows;
pub(crate) use recent_rows::{Place, Wanted};
pub(crate) use reference::MixedKeys;
pub use reference::ReferenceTable;
