//! Checkpoints in a bucket of S3, or of what speaks like it.
//!
//! The crate `object_store` speaks; a runtime of our own, which runs only while a call waits, hides
//! that it is asynchronous. It never tries again by itself: the store does, and tells of it.
//!
//! # Invariants
//! * Credentials, region and endpoint come from the standard variables, and from nowhere else.
//! * A request takes a limited time, hence large objects are written and read in parts.
//! * What an answer says is judged here: only what may pass is tried again.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpService, ReqwestConnector,
};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, MultipartId, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig,
};
use tokio::runtime::{Builder, Runtime};

use crate::checkpoint::store::{Backing, Object, Options, Put, Reason, Trouble, Upload};

/// The longest time that a request of one part may take.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// The longest time that a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Connections are not used again after so long: the other side may have closed them.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Variables of which one at least says where credentials come from. Without any, the host itself
/// is asked, as on EC2.
const CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// A bucket, or a part of one.
pub(super) struct Bucket {
    runtime: Runtime,
    client: AmazonS3,
    prefix: Path,
}

impl Bucket {
    /// The objects of a job in `BUCKET/PREFIX`.
    pub(super) fn open(place: &str, job: &str, options: &Options) -> Result<Self, Reason> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            let hint = "Write s3://bucket/prefix.";
            return Err(("It names no bucket.".to_owned(), Some(hint)));
        }
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| (format!("Its prefix cannot be used: {error}."), None))?
            .join(job);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| (format!("No runtime: {error}."), None))?;
        let client = client(bucket, options).map_err(|error| (chain(&error), None))?;
        let bucket = Self {
            runtime,
            client,
            prefix,
        };
        let has = |name: &str| {
            options
                .environment
                .iter()
                .any(|(known, value)| known == name && !value.is_empty())
        };
        if !CREDENTIALS.iter().any(|name| has(name)) {
            bucket.ask_for_credentials()?;
        }
        Ok(bucket)
    }

    /// The host gives credentials, if it is one that does.
    fn ask_for_credentials(&self) -> Result<(), Reason> {
        let given = self.client.credentials().get_credential();
        let given = self.runtime.block_on(given);
        given.map(drop).map_err(|error| {
            let error = chain(&error);
            let reason = format!("There are no credentials, and the host gives none: {error}");
            let hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE.";
            (reason, Some(hint))
        })
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        self.runtime.block_on(future).map_err(|error| judge(&error))
    }
}

fn client(bucket: &str, options: &Options) -> Result<AmazonS3, Error> {
    let client = ClientOptions::new()
        .with_timeout(REQUEST_MAX)
        .with_connect_timeout(CONNECT_MAX)
        .with_pool_idle_timeout(IDLE_MAX);
    let mut builder = AmazonS3Builder::new().with_client_options(client);
    let mut plain = false;
    let set = options
        .environment
        .iter()
        .filter(|(_, value)| !value.is_empty());
    for (name, value) in set {
        let key = name.to_ascii_lowercase();
        let Some(key) = key.strip_prefix("aws_").and_then(|_| key.parse().ok()) else {
            continue;
        };
        plain |= key == AmazonS3ConfigKey::Endpoint && value.starts_with("http://");
        builder = builder.with_config(key, value);
    }
    if plain {
        // The user has said so.
        builder = builder.with_allow_http(true);
    }
    let retry = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    builder
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_http_connector(Connector)
        .build()
}

impl Backing for Bucket {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, Trouble> {
        let path = self.path(name);
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.client.put_opts(&path, payload, PutMode::Create.into());
        match self.runtime.block_on(put) {
            Ok(_) => Ok(Put::Written),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(judge(&error)),
        }
    }

    fn begin(&self, name: &str) -> Result<Box<dyn Upload + '_>, Trouble> {
        let path = self.path(name);
        let id = self.wait(self.client.create_multipart(&path))?;
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
            let got = self.client.get_opts(&path, options).await?;
            got.bytes().await
        };
        Ok(self.wait(bytes)?.to_vec())
    }

    fn list(&self) -> Result<Vec<Object>, Trouble> {
        let listed = self.wait(self.client.list_with_delimiter(Some(&self.prefix)))?;
        let objects = listed.objects.into_iter().filter_map(|object| {
            let name = object.location.filename()?.to_owned();
            let bytes = object.size;
            Some(Object { name, bytes })
        });
        Ok(objects.collect())
    }

    fn delete(&self, name: &str) -> Result<(), Trouble> {
        let path = self.path(name);
        match self.wait(self.client.delete(&path)) {
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
        let client = &self.bucket.client;
        let put = client.put_part(&self.path, &self.id, index, payload);
        let part = self.bucket.wait(put)?;
        self.parts.truncate(index);
        self.parts.push(part);
        Ok(())
    }

    fn finish(&mut self) -> Result<Put, Trouble> {
        let client = &self.bucket.client;
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
            let abort = self.bucket.client.abort_multipart(&self.path, &self.id);
            drop(self.bucket.runtime.block_on(abort));
        }
    }
}

/// Whether an error may pass.
fn judge(error: &Error) -> Trouble {
    if matches!(error, Error::NotFound { .. }) {
        return Trouble::Missing;
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Unknown => Trouble::Lasting(chain(error)),
                _ => Trouble::Passing(chain(error)),
            };
        }
        source = inner.source();
    }
    Trouble::Lasting(chain(error))
}

/// An error with its sources, as far as they say more.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// Connects as `object_store` does, and sees the status of every answer.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service(client)))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

/// What a service returns.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Service {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async {
            let response = self.0.execute(request).await?;
            let status = response.status().as_u16();
            match status {
                // Time-out of a request, too many of them, and a server's own trouble. 409 is a
                // put of a name that somebody else is putting: the next attempt knows who has won.
                408 | 409 | 429 | 500 | 502 | 503 | 504 => {
                    Err(HttpError::new(HttpErrorKind::Interrupted, Busy(status)))
                }
                _ => Ok(response),
            }
        })
    }
}

/// An answer that may be another the next time.
#[derive(Debug)]
struct Busy(u16);

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server has answered with status {}", self.0)
    }
}

impl std::error::Error for Busy {}
