//! A small HTTP/1.1 client for validators: plain TCP, keep-alive connections, deadlines.
//!
//! HTTP/1.1 answers in order, so requests in flight need a connection each; idle ones are kept and
//! the most recently used is taken first, which leaves only as many open as the load needs. Each
//! connection is driven by one task of the `TaskTracker` that the client was given: cancel the
//! token, close the tracker, wait for it, and nothing of the client runs any more.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The HTTP address of a validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    authority: String,
    host: HeaderValue,
}

impl Target {
    /// Reads `http://host:port`; a bare `host:port` is the same.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "a target is http://host:port";
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| FORM.to_owned())?;
        let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let Some(authority) = authority.filter(|_| plain && uri.query().is_none()) else {
            return Err(FORM.to_owned());
        };
        let authority = match authority.port_u16() {
            Some(_) => authority.as_str().to_owned(),
            None if authority.as_str() == authority.host() => format!("{authority}:80"),
            None => return Err(FORM.to_owned()),
        };
        let host = HeaderValue::from_str(&authority).map_err(|_| FORM.to_owned())?;
        Ok(Self { authority, host })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there, or the network is down.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer's body broke or is larger than what is read.
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Another status than expected.
    #[error("answered {0}")]
    Status(StatusCode),
    /// The client is stopping.
    #[error("stopped")]
    Stopped,
    /// A request that cannot be built from its parts.
    #[error("invalid request: {0}")]
    Request(#[from] hyper::http::Error),
    /// A document of another form.
    #[error("unexpected document: {0}")]
    Json(#[from] serde_json::Error),
    /// A body of another form.
    #[error("unexpected answer: {0}")]
    Form(String),
}

impl ClientError {
    /// True if the connection broke after the request may have been read.
    pub fn broke_connection(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Body(_))
    }
}

/// A whole answer.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
    /// When to come back, if it says so.
    pub retry_after: Option<Duration>,
}

/// The precise header of a validator, or else the one of the standard, in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let milliseconds = number("retry-after-ms").map(Duration::from_millis);
    milliseconds.or_else(|| number("retry-after").map(Duration::from_secs))
}

/// The connections to one target.
pub struct Client {
    target: Target,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Client {
    /// No connection yet; drivers run in `tasks` until `stop`.
    pub fn new(target: Target, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { target, idle: Mutex::new(Vec::new()), tasks, stop }
    }

    /// Where it connects to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a request and reads the whole answer, over an idle connection or a new one.
    pub async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        self.send_bounded(request, body, deadline, ANSWER_BYTES_MAX).await
    }

    /// The same, and an answer with a larger body is an error.
    async fn send_bounded(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
        deadline: Duration,
        answer_bytes_max: usize,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            let request = request.header(HOST, self.target.host.clone()).body(Full::new(body))?;
            let mut connection = self.connection().await?;
            let response = connection.send_request(request).await?;
            let status = response.status();
            let retry_after = retry_after(response.headers());
            let body = Limited::new(response.into_body(), answer_bytes_max).collect().await;
            let body = body.map_err(ClientError::Body)?.to_bytes();
            self.idle().push(connection);
            Ok(Answer { status, body, retry_after })
        };
        tokio::select! {
            () = self.stop.cancelled() => Err(ClientError::Stopped),
            answer = timeout(deadline, exchange) => {
                answer.unwrap_or(Err(ClientError::TimedOut(deadline)))
            }
        }
    }

    /// The status of `GET path`, whatever it is.
    pub async fn get(&self, path: &str, deadline: Duration) -> Result<Answer, ClientError> {
        let request = Request::builder().method(Method::GET).uri(path);
        self.send(request, Bytes::new(), deadline).await
    }

    /// The body of `GET path`, if it is there and not larger than this.
    pub async fn get_bounded(
        &self,
        path: &str,
        deadline: Duration,
        answer_bytes_max: usize,
    ) -> Result<Bytes, ClientError> {
        let request = Request::builder().method(Method::GET).uri(path);
        let answer = self.send_bounded(request, Bytes::new(), deadline, answer_bytes_max).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            other => Err(ClientError::Status(other)),
        }
    }

    /// The document at `path`.
    pub async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.get(path, deadline).await?;
        if answer.status != StatusCode::OK {
            return Err(ClientError::Status(answer.status));
        }
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Opens a stream over a connection of its own; `deadline` is for its head.
    pub async fn stream(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let opened = async {
            let request = Request::builder().method(Method::GET).uri(path);
            let request = request.header(ACCEPT, "application/octet-stream");
            let request = request.header(HOST, self.target.host.clone());
            let mut connection = self.connect().await?;
            Ok(connection.send_request(request.body(Full::new(Bytes::new()))?).await?)
        };
        let response: Response<Incoming> = tokio::select! {
            () = self.stop.cancelled() => return Err(ClientError::Stopped),
            opened = timeout(deadline, opened) => {
                opened.unwrap_or(Err(ClientError::TimedOut(deadline)))?
            }
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            other => Err(ClientError::Status(other)),
        }
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        loop {
            let Some(mut connection) = self.idle().pop() else { return self.connect().await };
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = TcpStream::connect(&self.target.authority).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Its error is the error of the request under way, which reports it.
                _ = driver => {}
            }
        });
        Ok(connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        // Nothing panics while it is held; a poisoned list of connections is still a list.
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_plain_http_without_a_path() {
        let shown = |text| Target::parse(text).map(|target| target.to_string());
        assert_eq!(shown("http://127.0.0.1:8080"), Ok("http://127.0.0.1:8080".to_owned()));
        assert_eq!(shown("http://[::1]:80/"), Ok("http://[::1]:80".to_owned()));
        assert_eq!(shown("localhost:9000"), Ok("http://localhost:9000".to_owned()));
        assert_eq!(shown("http://node"), Ok("http://node:80".to_owned()));
        for refused in [
            "",
            "https://a:1",
            "http://a:1/x",
            "http://a:1/?q",
            "http://a:b",
            "http://u@a:1",
            "://",
        ] {
            assert!(shown(refused).is_err(), "{refused}");
        }
    }
}
