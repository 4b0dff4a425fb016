//! Decoding a request: verb, path, key, transaction id, body (protocol page 01 §1.1 to §1.3).

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use bumpalo::Bump;
use components::document::Document;
use components::reference::Verb;
use components::{Error, Path, Result, State, TxnId, Value, decode, tbon};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Uri};
use percent_encoding::percent_decode;

use crate::json;

/// The type of TBON bodies (page 01 §1.3, §1.10).
pub(super) const TBON: &str = "application/tbon";

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

/// Whether the body is TBON: JSON is assumed of every other type, and without one (page 01 §1.3).
pub(super) fn is_tbon(headers: &HeaderMap) -> bool {
    is_content_type(headers, TBON)
}

/// Whether the body is said to be of a type.
pub(super) fn is_content_type(headers: &HeaderMap, name: &str) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|content_type| {
        let said = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        said.trim_ascii().eq_ignore_ascii_case(name.as_bytes())
    })
}

/// What a value of a body takes at least once it is decoded, in bytes: references and op definitions do not tell
/// what they hold.
const DECODED_VALUE_BYTES: u64 = 96;

/// Decode the body of a PUT or POST, and estimate what it takes in memory, in bytes.
///
/// # Errors
/// 400 that says what cannot be decoded and, if the text is malformed, at which byte.
pub(super) fn body(mut bytes: Vec<u8>, is_tbon: bool) -> Result<(State, u64)> {
    let read = |document: Document| {
        let state = decode::state(document)?;
        let size_bytes = state.bytes().max(document.values() as u64 * DECODED_VALUE_BYTES);
        Ok((state, size_bytes))
    };
    if bytes.is_empty() {
        return Err(Error::bad_request("the body is empty: send null for no value, {} for no parameters"));
    }
    guarded(|| {
        if is_tbon { read(tbon::parse(&bytes, &Bump::new())?) } else { json::with_document(&mut bytes, read) }
    })
    .map_err(|error| error.context("in the body"))
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
