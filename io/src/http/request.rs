//! Decoding a request: verb, path, key, transaction id, body (protocol page 01 §1.1 to §1.3).

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use bumpalo::Bump;
use components::language::reference::Verb;
use components::language::{decode, tbon};
use components::value::document::Document;
use components::value::limits::STATE_BYTES_MAX;
use components::{Error, Path, Result, State, TxnId, Value};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Uri, Version};
use percent_encoding::percent_decode;

use super::budget::Charge;
use super::media::{ARROW, CSV, MEDIA_TYPES, TBON};
use crate::json;

/// What the head of a request says.
pub(super) struct Head {
    pub(super) verb: Verb,
    pub(super) path: Path,
    pub(super) key: Value,
    pub(super) txn_id: Option<TxnId>,
}

/// A path beyond this is not kept, in bytes.
const KEPT_PATH_BYTES_MAX: usize = 256;

/// The path of the last request of a connection: it often asks for the same one again.
#[derive(Default)]
pub(super) struct LastPath(Mutex<Option<(Box<str>, Path)>>);

impl LastPath {
    /// [`Path::parse`].
    fn parse(&self, text: &str) -> Result<Path> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last_text, path)) = &*last
            && **last_text == *text
        {
            return Ok(path.clone());
        }
        let path = Path::parse(text)?;
        if text.len() <= KEPT_PATH_BYTES_MAX {
            *last = Some((text.into(), path.clone()));
        }
        Ok(path)
    }
}

/// The verb of a method (page 01 §1.1).
///
/// # Errors
/// 405 for any method but GET, PUT, POST and DELETE.
pub(super) fn verb(method: &Method) -> Result<Verb> {
    match *method {
        Method::GET => Ok(Verb::Get),
        Method::PUT => Ok(Verb::Put),
        Method::POST => Ok(Verb::Post),
        Method::DELETE => Ok(Verb::Delete),
        _ => Err(Error::method_not_allowed(format_args!(
            "{method} is not a verb of this host: GET, PUT, POST and DELETE are"
        ))),
    }
}

/// Refuse a request of which two proxies may think that it is for different hosts (RFC 9112 §3.2).
///
/// # Errors
/// 400 if there are two `Host`s, one that is none, or none on HTTP/1.1.
pub(super) fn check_host(version: Version, headers: &HeaderMap) -> Result<()> {
    let is_none = |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b'/' | b'@' | b'?' | b'#' | b'\\' | b'"');
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.as_bytes().iter().any(is_none) => Err(Error::bad_request(format_args!(
            "{:?} is not a Host",
            String::from_utf8_lossy(host.as_bytes())
        ))),
        (None, _) if version == Version::HTTP_11 => {
            Err(Error::bad_request("the request has no Host: HTTP/1.1 asks for one"))
        }
        (Some(_), Some(_)) => Err(Error::bad_request("the request has more than one Host")),
        _ => Ok(()),
    }
}

/// Refuse every token: none can be verified until hosts talk to each other (page 01 §1.3).
///
/// # Errors
/// 401 if there is an `Authorization`.
pub(super) fn authorize(headers: &HeaderMap) -> Result<()> {
    let Some(authorization) = headers.get(AUTHORIZATION) else { return Ok(()) };
    let scheme = authorization.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
    Err(Error::unauthorized(if scheme.eq_ignore_ascii_case(b"Bearer") {
        "this host cannot verify the token: it does not talk to the hosts that issue tokens yet"
    } else {
        "the Authorization of a request is 'Bearer <token>'"
    }))
}

/// Decode everything but the body.
///
/// # Errors
/// 400 that says what cannot be decoded.
pub(super) fn head(verb: Verb, uri: &Uri, last_path: &LastPath) -> Result<Head> {
    let path = last_path.parse(uri.path())?;
    let (mut key, mut txn_id) = (None, None);
    for (name, value) in parameters(uri) {
        match &*name {
            b"key" => key = Some(value),
            b"txn_id" => txn_id = Some(value),
            _ => {}
        }
    }
    let key = match key {
        Some(text) if verb != Verb::Post => {
            let decoded = guarded(|| json::with_document(&mut text.into_owned(), decode::key));
            decoded.map_err(|error| error.context("in the key"))?
        }
        _ => Value::None,
    };
    let txn_id = txn_id.map(|text| String::from_utf8_lossy(&text).parse()).transpose()?;
    Ok(Head { verb, path, key, txn_id })
}

/// The parameters of the query, form-urlencoded (page 01 §1.2).
pub(super) fn parameters(uri: &Uri) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    uri.query().unwrap_or_default().split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(name), form_decode(value))
    })
}

fn form_decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode(spaced.as_bytes()).collect::<Vec<u8>>().into();
    }
    percent_decode(text.as_bytes()).into()
}

/// What a body is said to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MediaType {
    /// JSON, which is also what a body is of which nothing is said.
    Json,
    /// TBON.
    Tbon,
    /// Rows as an Arrow IPC stream.
    Arrow,
    /// Rows as CSV.
    Csv,
}

/// The types that mean JSON beside `application/json`: what `curl -d` and `fetch` say unless told, and its old name.
const JSON_TYPES: [&str; 3] = ["application/x-www-form-urlencoded", "text/plain", "text/json"];

impl MediaType {
    /// What the body of a request is said to be.
    ///
    /// # Errors
    /// 415 that lists what is understood, if the type, its character set or an encoding of the body is not; 400 if there
    /// are two types.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self> {
        for encodings in headers.get_all(CONTENT_ENCODING) {
            for encoding in encodings.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity") {
                    return Err(Error::unsupported_media_type(format_args!(
                        "the encoding {:?} of the body is not understood: only identity is, so send it uncompressed",
                        String::from_utf8_lossy(encoding)
                    )));
                }
            }
        }
        let mut said = headers.get_all(CONTENT_TYPE).iter();
        let Some(content_type) = said.next() else { return Ok(Self::Json) };
        if said.any(|other| other != content_type) {
            return Err(Error::bad_request("there are two different Content-Types"));
        }
        let mut parts = content_type.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        let is_json_suffix = || {
            let application = name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"application/"));
            application && name.len() > 17 && name[name.len() - 5..].eq_ignore_ascii_case(b"+json")
        };
        let media_type = if name.is_empty() || is("application/json") || JSON_TYPES.into_iter().any(is) {
            Self::Json
        } else if is(TBON) {
            Self::Tbon
        } else if is(ARROW) {
            Self::Arrow
        } else if is(CSV) {
            Self::Csv
        } else if is_json_suffix() {
            Self::Json
        } else {
            return Err(Error::unsupported_media_type(format_args!(
                "the type {:?} of the body is not understood: {MEDIA_TYPES} are, and without a type it is JSON",
                String::from_utf8_lossy(name)
            )));
        };
        let is_text = matches!(media_type, Self::Json | Self::Csv);
        for parameter in parts.filter(|_| is_text) {
            let (name, value) = match parameter.iter().position(|byte| *byte == b'=') {
                Some(at) => (parameter[..at].trim_ascii(), parameter[at + 1..].trim_ascii()),
                None => (parameter, &parameter[..0]),
            };
            let value =
                value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            let is_utf8 =
                [&b"utf-8"[..], b"utf8", b"us-ascii"].iter().any(|set| value.eq_ignore_ascii_case(set));
            if name.eq_ignore_ascii_case(b"charset") && !is_utf8 {
                return Err(Error::unsupported_media_type(format_args!(
                    "the character set {:?} of the body is not understood: only utf-8 is",
                    String::from_utf8_lossy(value)
                )));
            }
            if media_type == Self::Csv
                && name.eq_ignore_ascii_case(b"header")
                && value.eq_ignore_ascii_case(b"absent")
            {
                return Err(Error::unsupported_media_type(
                    "CSV without a header is not understood: its first line has the names of the columns",
                ));
            }
        }
        Ok(media_type)
    }
}

/// What a body is that is not what it was said to be, by how it begins; none if it may be text or an Arrow stream.
pub(super) fn recognized(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 12] = [
        (&[0x1f, 0x8b, 0x08], "compressed with gzip; send it uncompressed"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd; send it uncompressed"),
        (&[0x04, 0x22, 0x4d, 0x18], "compressed with lz4; send it uncompressed"),
        (b"BZh", "compressed with bzip2; send it uncompressed"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed with xz; send it uncompressed"),
        (b"PK\x03\x04", "a zip archive, such as a spreadsheet"),
        (b"ARROW1", "an Arrow file; send an Arrow stream (in pyarrow ipc.new_stream, not ipc.new_file)"),
        (b"FEA1", "a Feather file; send an Arrow stream"),
        (b"PAR1", "a Parquet file; send an Arrow stream or CSV"),
        (b"Obj\x01", "an Avro file; send an Arrow stream or CSV"),
        (&[0xff, 0xfe], "text in UTF-16; send UTF-8"),
        (&[0xfe, 0xff], "text in UTF-16; send UTF-8"),
    ];
    // A text may well begin like the name of a format.
    let is_binary = || bytes.iter().take(64).any(|byte| *byte < b'\t' || *byte > b'~');
    SIGNATURES
        .iter()
        .find(|(signature, _)| bytes.starts_with(signature) && (!signature.is_ascii() || is_binary()))
        .map(|(_, what)| *what)
}

/// Refuse a body that is recognized as something else than it was said to be.
///
/// # Errors
/// 400 that says what it is.
pub(super) fn check_signature(bytes: &[u8]) -> Result<()> {
    // What begins JSON, CSV or an Arrow stream most often is none of these.
    match bytes.first() {
        None | Some(b'[' | b'{' | b'"' | b'0'..=b'9' | b' ' | b'n' | b't' | b'f') => Ok(()),
        Some(_) => match recognized(bytes) {
            None => Ok(()),
            Some(what) => {
                Err(Error::bad_request(format_args!("the body is {what}. {MEDIA_TYPES} are understood")))
            }
        },
    }
}

/// What a value of a body takes at least once it is decoded, in bytes: references and op definitions do not tell
/// what they hold.
const DECODED_VALUE_BYTES: u64 = 96;

/// What a value takes at most while it is decoded, in bytes: as a token, in the document, and as a state. Small objects
/// take the most.
const DECODING_VALUE_BYTES: usize = 128;

/// A body up to this size is decoded without being weighed before, in bytes.
const UNWEIGHED_BYTES_MAX: usize = 64 * 1024;

/// Decode the body of a PUT or POST, and charge what it takes in memory: while it is decoded before that begins, and then
/// what it is decoded to.
///
/// # Errors
/// 400 that says what cannot be decoded and, if the text is malformed, at which byte; 413 or 503 if it takes too much.
pub(super) fn body(mut bytes: Vec<u8>, is_tbon: bool, charge: &mut Charge) -> Result<State> {
    let before = charge.bytes();
    let mut decoding = |values: usize| charge.add(values.saturating_mul(DECODING_VALUE_BYTES));
    if !is_tbon && bytes.len() > UNWEIGHED_BYTES_MAX {
        let json::Weight { values, states } = json::weigh(&bytes);
        if states as u64 * State::NONE.bytes() > STATE_BYTES_MAX {
            return Err(Error::too_large(format_args!(
                "the body has {values} values, which would take more than {} MiB of memory",
                STATE_BYTES_MAX >> 20
            )));
        }
        decoding(values)?;
    }
    let mut read = |document: Document| {
        let values = document.values();
        if is_tbon {
            decoding(values)?;
        }
        let state = decode::state(document)?;
        let size_bytes = state.bytes().max(values as u64 * DECODED_VALUE_BYTES);
        Ok((state, size_bytes))
    };
    if bytes.is_empty() {
        return Err(Error::bad_request("the body is empty: send null for no value, {} for no parameters"));
    }
    if !is_tbon {
        check_signature(&bytes)?;
    }
    let decoded = guarded(|| {
        if is_tbon { read(tbon::parse(&bytes, &Bump::new())?) } else { json::with_document(&mut bytes, read) }
    });
    let (state, decoded_bytes) = decoded.map_err(|error| error.context("in the body"))?;
    charge.remove(charge.bytes() - before);
    charge.add(usize::try_from(decoded_bytes).unwrap_or(usize::MAX))?;
    Ok(state)
}

/// A defect of a decoder is an answer, not the end of a connection.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::internal("the decoder panicked: this is a defect of the host")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_path_answers_for_its_own_text_only() {
        let last_path = LastPath::default();
        for text in ["/a/b", "/a/b", "/a", "/a/b", "/a//b", "/a//b", "/a/b", "/"] {
            assert_eq!(last_path.parse(text).ok(), Path::parse(text).ok(), "{text}");
        }
    }
}
