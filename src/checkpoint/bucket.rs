//! Checkpoints in a bucket of S3, or of what speaks like it.
//!
//! It is apart from `store`, which tries again what may pass, because folders are no buckets.
//!
//! # Invariants
//! * A request takes a limited time, hence large objects are written and read in parts.

use std::ops::Range;

use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, MultipartId, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};

use crate::checkpoint::store::{Backing, Object, Options, Put, Reason, Trouble, Upload};
use crate::s3::{Client, chain, may_pass};

/// A bucket, or a part of one.
pub(super) struct Bucket {
    client: Client,
    prefix: Path,
}

impl Bucket {
    /// The objects of a job in `BUCKET/PREFIX`.
    pub(super) fn open(place: &str, job: &str, options: &Options) -> Result<Self, Reason> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| (format!("Its prefix cannot be used: {error}."), None))?
            .join(job);
        let client = Client::open(bucket, &options.environment)?;
        Ok(Self { client, prefix })
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        self.client.wait(future).map_err(|error| judge(&error))
    }
}

impl Backing for Bucket {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, Trouble> {
        let path = self.path(name);
        let payload = PutPayload::from(bytes.to_vec());
        let put = self
            .client
            .requests()
            .put_opts(&path, payload, PutMode::Create.into());
        match self.client.wait(put) {
            Ok(_) => Ok(Put::Written),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(judge(&error)),
        }
    }

    fn begin(&self, name: &str) -> Result<Box<dyn Upload + '_>, Trouble> {
        let path = self.path(name);
        let id = self.wait(self.client.requests().create_multipart(&path))?;
        Ok(Box::new(Parts {
            bucket: self,
            path,
            id,
            parts: Vec::new(),
            done: false,
        }))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, Trouble> {
        let path = self.path(name);
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let bytes = async {
            let got = self.client.requests().get_opts(&path, options).await?;
            got.bytes().await
        };
        Ok(self.wait(bytes)?.to_vec())
    }

    fn list(&self) -> Result<Vec<Object>, Trouble> {
        let listed = self.wait(
            self.client
                .requests()
                .list_with_delimiter(Some(&self.prefix)),
        )?;
        let objects = listed.objects.into_iter().filter_map(|object| {
            let name = object.location.filename()?.to_owned();
            let bytes = object.size;
            Some(Object { name, bytes })
        });
        Ok(objects.collect())
    }

    fn delete(&self, name: &str) -> Result<(), Trouble> {
        let path = self.path(name);
        match self.wait(self.client.requests().delete(&path)) {
            Err(Trouble::Missing) => Ok(()),
            deleted => deleted,
        }
    }

    fn sweep(&self) -> Result<usize, Trouble> {
        // Parts without an object are no objects; the bucket's own rules remove them.
        Ok(0)
    }
}

/// An object that is put in parts.
struct Parts<'a> {
    bucket: &'a Bucket,
    path: Path,
    id: MultipartId,
    parts: Vec<PartId>,
    done: bool,
}

impl Upload for Parts<'_> {
    fn part(&mut self, index: usize, _offset: u64, bytes: &[u8]) -> Result<(), Trouble> {
        let payload = PutPayload::from(bytes.to_vec());
        let client = self.bucket.client.requests();
        let put = client.put_part(&self.path, &self.id, index, payload);
        let part = self.bucket.wait(put)?;
        self.parts.truncate(index);
        self.parts.push(part);
        Ok(())
    }

    fn finish(&mut self) -> Result<Put, Trouble> {
        let client = self.bucket.client.requests();
        let complete = client.complete_multipart(&self.path, &self.id, self.parts.clone());
        match self.bucket.wait(complete) {
            // An attempt whose answer was lost has made it.
            Err(Trouble::Missing) => self.bucket.wait(client.head(&self.path)).map(drop)?,
            completed => drop(completed?),
        }
        self.done = true;
        Ok(Put::Written)
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        if !self.done {
            // What stays is removed by the bucket's own rules.
            let abort = self
                .bucket
                .client
                .requests()
                .abort_multipart(&self.path, &self.id);
            drop(self.bucket.client.wait(abort));
        }
    }
}

/// What an error means to the store.
fn judge(error: &Error) -> Trouble {
    match error {
        Error::NotFound { .. } => Trouble::Missing,
        error if may_pass(error) => Trouble::Passing(chain(error)),
        error => Trouble::Lasting(chain(error)),
    }
}
