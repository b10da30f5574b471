//! Buckets of S3, and of what speaks like it: the client that checkpoints and reference files
//! share.
//!
//! The crate `object_store` speaks; a runtime of our own, which runs only while a call waits, hides
//! that it is asynchronous. It never tries again by itself: whoever calls does, and tells of it.
//!
//! # Invariants
//! * Credentials, region and endpoint come from the standard variables, and from nowhere else.
//! * A request takes a limited time, hence large objects are written and read in parts.
//! * What an answer says is judged here: only what may pass is tried again.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpService, ReqwestConnector,
};
use object_store::{Error, RetryConfig};
use tokio::runtime::{Builder, Runtime};

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

/// Why a bucket cannot be used, and what to do.
pub type Reason = (String, Option<&'static str>);

/// A client of one bucket.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    client: AmazonS3,
}

impl Client {
    /// A client of a bucket; no request is made but for credentials.
    ///
    /// # Errors
    /// If there are no credentials, or the variables cannot be used.
    pub fn open(bucket: &str, environment: &[(String, String)]) -> Result<Self, Reason> {
        if bucket.is_empty() {
            let hint = "Write s3://bucket/prefix.";
            return Err(("It names no bucket.".to_owned(), Some(hint)));
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| (format!("No runtime: {error}."), None))?;
        let client = client(bucket, environment).map_err(|error| (chain(&error), None))?;
        let this = Self { runtime, client };
        let has = |name: &str| {
            let mut set = environment.iter();
            set.any(|(known, value)| known == name && !value.is_empty())
        };
        if !CREDENTIALS.iter().any(|name| has(name)) {
            this.ask_for_credentials()?;
        }
        Ok(this)
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

    /// What makes requests.
    pub fn requests(&self) -> &AmazonS3 {
        &self.client
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// That of the request.
    pub fn wait<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(answer)
    }
}

/// The variables of the process. One that is not Unicode is none of ours.
pub fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

fn client(bucket: &str, environment: &[(String, String)]) -> Result<AmazonS3, Error> {
    let client = ClientOptions::new()
        .with_timeout(REQUEST_MAX)
        .with_connect_timeout(CONNECT_MAX)
        .with_pool_idle_timeout(IDLE_MAX);
    let mut builder = AmazonS3Builder::new().with_client_options(client);
    let mut plain = false;
    let set = environment.iter().filter(|(_, value)| !value.is_empty());
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

/// Whether an error may pass.
pub fn may_pass(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return http.kind() != HttpErrorKind::Unknown;
        }
        source = inner.source();
    }
    false
}

/// An error with its sources, as far as they say more.
pub fn chain(error: &Error) -> String {
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
