//! As much of an HTTP client as the harness needs: it shows exactly what came.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take before the host counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: &'static str,
    pub path: String,
    /// JSON.
    pub key: Option<String>,
    /// The id of its transaction, if the caller chooses it.
    pub txn_id: Option<String>,
    pub content_type: Option<&'static str>,
    pub accept: Option<&'static str>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self {
            verb: "GET",
            path: path.into(),
            key: None,
            txn_id: None,
            content_type: None,
            accept: None,
            body: Vec::new(),
        }
    }

    pub fn put(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { verb: "PUT", body: body.into(), ..Self::get(path) }
    }

    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { verb: "POST", body: body.into(), ..Self::get(path) }
    }

    pub fn delete(path: &str) -> Self {
        Self { verb: "DELETE", ..Self::get(path) }
    }

    pub fn key(self, key: String) -> Self {
        Self { key: Some(key), ..self }
    }

    /// With the id of a transaction at this time, in nanoseconds.
    pub fn at(self, time_ns: u64) -> Self {
        Self { txn_id: Some(format!("{time_ns}-0")), ..self }
    }

    pub fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), ..self }
    }

    pub fn accept(self, accept: &'static str) -> Self {
        Self { accept: Some(accept), ..self }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Send a request to a host, and do not wait.
pub fn send(port: u16, request: &Request) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let parameters = [("key", &request.key), ("txn_id", &request.txn_id)];
    let query: Vec<String> = parameters
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", percent_encoded(value.as_ref()?))))
        .collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let mut head = format!(
        "{} {}{query} HTTP/1.1\r\nHost: harness\r\nConnection: close\r\n",
        request.verb, request.path
    );
    for (name, value) in [("Content-Type", request.content_type), ("Accept", request.accept)] {
        if let Some(value) = value {
            head += &format!("{name}: {value}\r\n");
        }
    }
    head += &format!("Content-Length: {}\r\n\r\n", request.body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    Ok(stream)
}

/// Ask a host.
pub fn call(port: u16, request: &Request) -> std::io::Result<Answer> {
    let mut stream = send(port, request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let malformed = || std::io::Error::other("a malformed answer");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    let rest = &bytes[end + 4..];
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { dechunked(rest).ok_or_else(malformed)? } else { rest.to_vec() };
    Ok(Answer { status, body })
}

fn dechunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}
