//! The heads of HTTP/1 requests, looked at before hyper does: two programs in a row must never disagree about where one
//! ends (RFC 9112 §2.2, §6.3, §11.2). And what hyper answers itself gets a body that says why, as all errors have.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use components::language::encode::error_json;
use components::{Error, ErrorKind};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use memchr::memchr;

use super::limits::HttpConfig;
use crate::metrics::Metrics;

/// How much of a line is kept that arrives in pieces: all of the headers that say how long a body is.
const LINE_BYTES_MAX: usize = 1024;

/// The longest line of a chunk's size that hyper takes, its extensions included, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 16 * 1024;

/// What no head has: hyper refuses it wherever it is.
const NOT_A_HEAD: &[u8] = b"\0\r\n\r\n";

/// What an answer of hyper's own is at most long, in bytes.
const OWN_ANSWER_BYTES_MAX: usize = 512;

/// The most headers that hyper takes.
const HEADERS_MAX: usize = 100;

/// Where in the bytes of a connection we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Head,
    /// So many bytes of a body are left.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk are left, and the end of its line.
    Chunk(u64),
    Trailer,
    /// It is HTTP/2, or broken, so that hyper ends it.
    Unwatched,
}

/// Follows the bytes of a connection from head to head.
#[derive(Debug)]
struct Heads {
    place: Place,
    /// The line so far, if some of it came before.
    line: Vec<u8>,
    line_bytes: usize,
    /// How many lines of the head have ended.
    lines: usize,
    heads: u64,
    content_length: Option<u64>,
    /// Whether the body comes in chunks, if it is said how it is transferred.
    is_chunked: bool,
    is_refused: bool,
}

/// Why a head is refused, and how many of the bytes that were looked at come before that.
#[derive(Debug, Eq, PartialEq)]
struct Refused {
    after: usize,
    why: String,
}

impl Heads {
    fn new() -> Self {
        Self {
            place: Place::Head,
            line: Vec::new(),
            line_bytes: 0,
            lines: 0,
            heads: 0,
            content_length: None,
            is_chunked: false,
            is_refused: false,
        }
    }

    /// How many bytes come that need not be looked at.
    fn unseen(&self) -> u64 {
        match self.place {
            Place::Body(left) | Place::Chunk(left) => left,
            Place::Unwatched => u64::MAX,
            Place::Head | Place::ChunkSize | Place::Trailer => 0,
        }
    }

    fn is_http1(&self) -> bool {
        self.heads > 0 || self.place != Place::Unwatched || self.is_refused
    }

    /// So many bytes have come that were not looked at.
    fn skip(&mut self, bytes: u64) {
        match &mut self.place {
            Place::Body(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.place = Place::Head;
                }
            }
            Place::Chunk(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.place = Place::ChunkSize;
                }
            }
            _ => {}
        }
    }

    /// Look at what has come.
    fn look(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut at = 0;
        while at < bytes.len() {
            let unseen = self.unseen();
            if unseen > 0 {
                let skipped = unseen.min((bytes.len() - at) as u64);
                self.skip(skipped);
                at += skipped as usize;
                continue;
            }
            let Some(length) = memchr(b'\n', &bytes[at..]) else {
                self.keep(&bytes[at..]);
                return Ok(());
            };
            let rest = &bytes[at..at + length];
            let refused = |why: String| Refused { after: at + length, why };
            if self.line_bytes == 0 {
                self.end_line(rest, rest.len()).map_err(refused)?;
            } else {
                self.keep(rest);
                let line = std::mem::take(&mut self.line);
                let line_bytes = std::mem::take(&mut self.line_bytes);
                self.end_line(&line, line_bytes).map_err(refused)?;
            }
            at += length + 1;
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.line_bytes += bytes.len();
        // How the line ends is needed, too.
        if self.line_bytes > LINE_BYTES_MAX
            && let (Some(kept), Some(last)) = (self.line.last_mut(), bytes.last())
        {
            *kept = *last;
        }
    }

    /// A line has ended, of so many bytes, of which the first ones and the last are here.
    fn end_line(&mut self, line: &[u8], line_bytes: usize) -> Result<(), String> {
        match self.place {
            Place::Head => self.end_head_line(line, line_bytes),
            Place::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = std::str::from_utf8(&line[..digits]).ok();
                let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
                self.place = match size {
                    _ if line_bytes > CHUNK_LINE_BYTES_MAX => Place::Unwatched,
                    Some(0) => Place::Trailer,
                    // The end of its line belongs to it.
                    Some(size) => size.checked_add(2).map_or(Place::Unwatched, Place::Chunk),
                    None => Place::Unwatched,
                };
                Ok(())
            }
            Place::Chunk(_) | Place::Body(_) | Place::Unwatched => unreachable!("these have no lines"),
            Place::Trailer => {
                if matches!(line, [] | [b'\r']) {
                    self.place = Place::Head;
                }
                Ok(())
            }
        }
    }

    fn end_head_line(&mut self, line: &[u8], line_bytes: usize) -> Result<(), String> {
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err("a line of the head ends with LF alone: each ends with CR and LF".to_string());
        };
        if line.is_empty() {
            // What is empty before a request is passed by.
            return if self.lines == 0 { Ok(()) } else { self.end_head() };
        }
        self.lines += 1;
        if self.lines == 1 {
            if self.heads == 0 && line == b"PRI * HTTP/2.0" {
                self.place = Place::Unwatched;
            }
            return Ok(());
        }
        if line[0] == b' ' || line[0] == b'\t' {
            return Err("a header goes on in another line, which it must not".to_string());
        }
        let Some(colon) = memchr(b':', line) else {
            return match line_bytes > LINE_BYTES_MAX {
                // Not even its name fits: hyper refuses it.
                true => Ok(()),
                false => Err(format!("{:?} is not a header: it has no colon", String::from_utf8_lossy(line))),
            };
        };
        // All others are none of ours.
        if !matches!(line[0], b'c' | b'C' | b't' | b'T') {
            return Ok(());
        }
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits =
                std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|digits| digits.parse().ok());
            let Some(length) = length.filter(|_| line_bytes <= LINE_BYTES_MAX) else {
                return Err(format!("{:?} is not a Content-Length", String::from_utf8_lossy(value)));
            };
            if self.content_length.is_some_and(|before| before != length) {
                return Err("the request has two different Content-Lengths".to_string());
            }
            self.content_length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if line_bytes > LINE_BYTES_MAX || self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the only Transfer-Encoding that is understood is chunked, once".to_string());
            }
            self.is_chunked = true;
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), String> {
        let content_length = self.content_length.take();
        let is_chunked = std::mem::take(&mut self.is_chunked);
        if is_chunked && content_length.is_some() {
            return Err("the request has a Content-Length and a Transfer-Encoding: it must have one at most"
                .to_string());
        }
        self.lines = 0;
        self.heads += 1;
        self.place = match content_length {
            _ if is_chunked => Place::ChunkSize,
            None | Some(0) => Place::Head,
            Some(length) => Place::Body(length),
        };
        Ok(())
    }
}

/// A connection whose heads are looked at.
pub(super) struct Checked<S> {
    stream: S,
    heads: Heads,
    /// Why the last head is refused, if it is.
    why: Option<String>,
    /// What hyper is yet to read in the place of a head that is refused.
    instead: &'static [u8],
    /// What is yet to be written in the place of an answer of hyper's own.
    answer: Vec<u8>,
    max_header_bytes: usize,
    metrics: Arc<Metrics>,
}

impl<S> Checked<S> {
    pub(super) fn new(stream: S, config: &HttpConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            stream,
            heads: Heads::new(),
            why: None,
            instead: &[],
            answer: Vec::new(),
            max_header_bytes: config.max_header_bytes,
            metrics,
        }
    }

    /// The same answer with a body, if this ends with one of hyper's own, which has none.
    fn with_body(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let tail = &bytes[bytes.len().saturating_sub(OWN_ANSWER_BYTES_MAX)..];
        let start = tail.windows(9).rposition(|window| matches!(window, b"HTTP/1.1 " | b"HTTP/1.0 "))?;
        let head = std::str::from_utf8(&tail[start..]).ok()?;
        let status: u16 = head.get(9..12)?.parse().ok()?;
        let lower = head.to_ascii_lowercase();
        let is_own = status >= 400
            && lower.contains("\r\ncontent-length: 0\r\n")
            && !lower.contains("\r\ncontent-type:");
        if !is_own {
            return None;
        }
        let (kind, why) = match (status, &self.why) {
            (_, Some(why)) => (ErrorKind::BadRequest, why.clone()),
            (414, _) => (ErrorKind::TooLarge, "the URL is too long".to_string()),
            (431, _) => (
                ErrorKind::TooLarge,
                format!(
                    "the head of a request has at most {} bytes and {HEADERS_MAX} headers",
                    self.max_header_bytes
                ),
            ),
            _ => (ErrorKind::BadRequest, "the head of the request is malformed".to_string()),
        };
        let body = error_json(&Error::new(kind, why)) + "\n";
        self.metrics.count_reply(status, body.len());
        let mut answer = bytes[..bytes.len() - tail.len() + start].to_vec();
        for line in head.trim_end().split("\r\n") {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if name != "content-length" && name != "connection" {
                answer.extend_from_slice(line.as_bytes());
                answer.extend_from_slice(b"\r\n");
            }
        }
        let end = format!(
            "content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        answer.extend_from_slice(end.as_bytes());
        Some(answer)
    }
}

impl<S: Write + Unpin> Checked<S> {
    /// Write what is to be written in the place of what hyper wrote.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answer.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Unpin> Read for Checked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = to.remaining();
        if !this.instead.is_empty() {
            let (now, later) = this.instead.split_at(this.instead.len().min(room));
            to.put_slice(now);
            this.instead = later;
            return Poll::Ready(Ok(()));
        }
        // SAFETY: nothing in the buffer is made uninitialized by reading into it.
        let mut buffer = ReadBuf::uninit(unsafe { to.as_mut() });
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer.unfilled()))?;
        let bytes = buffer.filled();
        let passed = match this.heads.look(bytes) {
            Ok(()) => bytes.len(),
            Err(Refused { after, why }) => {
                this.why = Some(why);
                (this.heads.place, this.heads.is_refused) = (Place::Unwatched, true);
                // Nothing of what comes later is a request.
                this.instead = NOT_A_HEAD;
                after
            }
        };
        let is_refused_at_once = passed == 0 && !this.instead.is_empty();
        // SAFETY: so many bytes were read, at least.
        unsafe { to.advance(passed) };
        if is_refused_at_once {
            return self.poll_read(context, to);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Checked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.answer.is_empty() {
            ready!(self.poll_answer(context))?;
        }
        if self.heads.is_http1()
            && let Some(answer) = self.with_body(bytes)
        {
            // All of it is taken; what cannot be written yet is when the connection is flushed.
            self.answer = answer;
            if let Poll::Ready(Err(cause)) = self.poll_answer(context) {
                return Poll::Ready(Err(cause));
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Only HTTP/2 writes so.
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether the heads in a text are all as they should be, however it arrives, and why not.
    fn looked(text: &[u8], piece_bytes: usize) -> Result<u64, String> {
        let mut heads = Heads::new();
        for piece in text.chunks(piece_bytes) {
            heads.look(piece).map_err(|refused| refused.why)?;
        }
        Ok(heads.heads)
    }

    const GOOD: [(&str, u64); 9] = [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1),
        ("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", 2),
        ("PUT / HTTP/1.1\r\nContent-Length: 2\r\ncontent-length:2\r\n\r\n[]GET / HTTP/1.1\r\n\r\n", 2),
        (
            "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\n\n\r\nA\r\n0123456\n\n\n\r\n0\r\nx: y\r\n\r\n\
             GET / HTTP/1.1\r\n\r\n",
            2,
        ),
        ("PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n", 0),
        ("GET / HTTP/1.1\r\nX-Content-Length: a\r\nx:\r\n\r\n", 1),
        ("PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / \n", 1),
    ];

    const BAD: [(&str, &str); 12] = [
        ("GET / HTTP/1.1\nHost: x\r\n\r\n", "LF"),
        ("GET / HTTP/1.1\r\nHost: x\n\r\n", "LF"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\n", "LF"),
        ("\nGET / HTTP/1.1\r\n\r\n", "LF"),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "another line"),
        ("GET / HTTP/1.1\r\nA b\r\n\r\n", "colon"),
        ("PUT / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", "two different"),
        ("PUT / HTTP/1.1\r\nContent-Length: +2\r\n\r\n", "not a Content-Length"),
        ("PUT / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n", "not a Content-Length"),
        ("PUT / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "one at most"),
        ("PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "chunked"),
        ("PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]GET / HTTP/1.1\n\r\n", "LF"),
    ];

    #[test]
    fn heads_are_followed_however_they_arrive() {
        for piece_bytes in 1..80 {
            for (text, heads) in GOOD {
                assert_eq!(looked(text.as_bytes(), piece_bytes), Ok(heads), "{text:?} by {piece_bytes}");
            }
            for (text, why) in BAD {
                let refused = looked(text.as_bytes(), piece_bytes).unwrap_err();
                assert!(refused.contains(why), "{text:?} by {piece_bytes}: {refused}");
            }
        }
    }

    #[test]
    fn a_long_line_is_no_trouble() {
        let long = "y".repeat(3 * LINE_BYTES_MAX);
        let text = format!("GET /{long} HTTP/1.1\r\nA: {long}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        for piece_bytes in [1, 7, 1000, 1024, 1025, 5000] {
            assert_eq!(looked(text.as_bytes(), piece_bytes), Ok(2));
            let refused = looked(format!("GET / HTTP/1.1\r\nA: {long}\n\r\n").as_bytes(), piece_bytes);
            assert!(refused.unwrap_err().contains("LF"));
        }
    }

    proptest! {
        #[test]
        fn anything_is_looked_at_alike_however_it_arrives(
            parts in prop::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\n".to_string()), Just("\r\n".to_string()), Just("\n".to_string()),
                Just("Content-Length: 5\r\n".to_string()), Just("Transfer-Encoding: chunked\r\n".to_string()),
                Just("5\r\nabcde\r\n".to_string()), Just("0\r\n\r\n".to_string()), Just("abcde".to_string()), "\\PC{0,9}",
            ], 0..20),
            piece_bytes in 1..30_usize,
        ) {
            let text = parts.concat();
            prop_assert_eq!(looked(text.as_bytes(), piece_bytes), looked(text.as_bytes(), usize::MAX));
        }
    }
}
