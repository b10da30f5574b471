//! Rows of the window that have left memory: files of blocks in the folder of a process.
//!
//! It is apart from the keys in that folder: no checkpoint has rows in this form, so the files are
//! deleted with the process that wrote them, or by the next start.
//!
//! # Invariants
//! * No row is given from bytes whose checksum is another.
//! * A file is deleted when its last row is forgotten.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use deltajoin_workers::state::{ColdRows, RowFolder};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::cold::ColdFolder;
use crate::checkpoint::sealed::damaged;

/// Where a worker's rows go.
#[derive(Debug)]
pub struct RowFiles {
    folder: Arc<ColdFolder>,
    worker: usize,
    /// How many files have been written.
    written: u64,
}

/// A file of blocks.
#[derive(Debug)]
struct RowFile {
    folder: Arc<ColdFolder>,
    name: String,
    path: PathBuf,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    bytes: Range<u64>,
    checksum: u64,
}

impl RowFiles {
    /// In the folder of a process, for one of its workers.
    pub fn new(folder: Arc<ColdFolder>, worker: usize) -> Self {
        Self {
            folder,
            worker,
            written: 0,
        }
    }

    fn create(&self, blocks: &[Vec<u8>]) -> io::Result<RowFile> {
        let name = format!("window-{}-{}", self.worker, self.written);
        let path = self.folder.path.join(&name);
        self.folder.used().insert(name.clone(), name.clone());
        let mut written = RowFile {
            folder: Arc::clone(&self.folder),
            blocks: Vec::with_capacity(blocks.len()),
            name,
            path,
        };
        let mut file = File::create(&written.path)?;
        let mut start = 0;
        for block in blocks {
            file.write_all(block)?;
            let end = start + block.len() as u64;
            written.blocks.push(Block {
                bytes: start..end,
                checksum: xxh3_64(block),
            });
            start = end;
        }
        Ok(written)
    }
}

impl RowFolder for RowFiles {
    fn write(&mut self, blocks: &[Vec<u8>]) -> Option<Box<dyn ColdRows>> {
        let created = self.create(blocks);
        self.written += 1;
        match created {
            Ok(file) => Some(Box::new(file)),
            Err(error) => {
                let folder = &self.folder.path;
                tracing::error!(?folder, %error, "rows that were to be on disk stay in memory");
                None
            }
        }
    }
}

impl RowFile {
    fn block(&self, block: usize) -> Result<Vec<u8>, String> {
        let Block { bytes, checksum } = &self.blocks[block];
        let mut read = vec![0; (bytes.end - bytes.start) as usize];
        // Opened for each block: a long window has more files than a process may have open.
        let file =
            File::open(&self.path).and_then(|file| file.read_exact_at(&mut read, bytes.start));
        file.map_err(|error| format!("block {block}: {error}"))?;
        if xxh3_64(&read) != *checksum {
            return Err(format!("the checksum of block {block} is another"));
        }
        Ok(read)
    }
}

impl ColdRows for RowFile {
    fn read(&self, block: usize) -> Vec<u8> {
        self.block(block).unwrap_or_else(|reason| {
            let path = self.path.to_string_lossy();
            (self.folder.on_fault)(&damaged(&path, &reason));
            unreachable!("a fault ends the process")
        })
    }
}

impl Drop for RowFile {
    fn drop(&mut self) {
        // What stays is deleted by the next start.
        drop(std::fs::remove_file(&self.path));
        self.folder.used().remove(&self.name);
    }
}
