//! Files from strangers: whatever the bytes, an error or a model that is consistent. Never a panic, never
//! memory far beyond the size of the file.

mod archive;
#[path = "../common/mod.rs"]
mod common;
mod flips;
mod lies;
mod memory;
mod using;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;
