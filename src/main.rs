//! The binary of deltajoin.
fn main(){}
