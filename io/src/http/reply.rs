//! Encoding a reply (protocol page 01 §1.3 to §1.5).

use bytes::Bytes;
use components::language::{encode, tbon};
use components::{Error, ErrorKind, Reply, Result, State, Value};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use tracing::Level;

use super::budget::{Charge, SMALL_BYTES_MAX};
use super::media::{ARROW, CSV, JSON_TYPE, MEDIA_TYPES, RowsForm, TBON};
use super::stream::{ReplyBody, Streamed};

/// A reply as the server sends it.
pub(super) type HttpReply = Response<ReplyBody>;

/// Says how many rows a write has touched.
pub(super) const ROWS: HeaderName = HeaderName::from_static("tinychain-rows");

/// Whether the client asks for TBON; `Accept-Encoding` selects it too, as hosts use it (page 01 §1.3).
pub(super) fn wants_tbon(headers: &HeaderMap) -> bool {
    [ACCEPT_ENCODING, ACCEPT].iter().any(|name| {
        headers.get_all(name).iter().any(|list| {
            list.as_bytes().split(|byte| *byte == b',').any(|item| {
                let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                let is_tbon = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(TBON.as_bytes()));
                // "q=0" means "not this"; any other parameter changes nothing.
                is_tbon
                    && !parts.any(|parameter| matches!(parameter, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"))
            })
        })
    })
}

/// The form of rows that the client likes best, if it is one of their own. What it says of other forms is read as if it
/// were about JSON.
pub(super) fn wanted_rows(headers: &HeaderMap) -> Option<RowsForm> {
    let mut best: (u16, Option<RowsForm>) = (0, None);
    for list in headers.get_all(ACCEPT) {
        for item in list.as_bytes().split(|byte| *byte == b',') {
            let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let form = [(ARROW, RowsForm::Arrow), (CSV, RowsForm::Csv)]
                .into_iter()
                .find_map(|(text, form)| name.eq_ignore_ascii_case(text.as_bytes()).then_some(form));
            let quality = parts.find_map(|parameter| parameter.strip_prefix(b"q=")).map_or(1000, thousandths);
            if quality > best.0 {
                best = (quality, form);
            }
        }
    }
    best.1
}

/// A number from 0 to 1 with three digits at most, in thousandths; anything else is 1.
fn thousandths(text: &[u8]) -> u16 {
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.parse().map_or(1000, |quality: f32| (quality.clamp(0.0, 1.0) * 1000.0) as u16)
}

pub(super) fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> HttpReply {
    let mut reply = Response::new(ReplyBody::Whole(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// The answer of the world, or of the edge in its place, of at most `bytes_max` bytes. What the request holds of the budget
/// is held until it is made.
pub(super) fn reply(reply: Reply, tbon: bool, bytes_max: usize, charge: Charge) -> HttpReply {
    match reply.and_then(|state| success(&state, tbon, bytes_max, charge)) {
        Ok(reply) => reply,
        Err(cause) => error(&cause),
    }
}

/// 200 and a state; 400 if JSON has no form for it. Never 204: the client reads a body (page 01 §1.4).
fn success(state: &State, tbon: bool, bytes_max: usize, charge: Charge) -> Result<HttpReply> {
    if tbon {
        let body = charged(tbon::encode_within(state, bytes_max)?, charge)?;
        return Ok(response(StatusCode::OK, HeaderValue::from_static(TBON), body));
    }
    if let State::Value(Value::None) = state {
        return Ok(response(StatusCode::OK, JSON_TYPE, &b"null\n"[..]));
    }
    let mut json = encode::to_json_within(state, bytes_max)?;
    json.push(b'\n');
    Ok(response(StatusCode::OK, JSON_TYPE, charged(json, charge)?))
}

/// A reply and its share of the budget, until all of it is sent.
struct ChargedReply {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for ChargedReply {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A reply that is sent while it is made, from its first chunk on.
pub(super) fn streamed(content_type: HeaderValue, body: Streamed) -> HttpReply {
    let mut reply = Response::new(ReplyBody::Streamed(Box::new(body)));
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// A large reply is charged until the client has read it: clients may be slow, and many.
fn charged(bytes: Vec<u8>, mut charge: Charge) -> Result<Bytes> {
    if bytes.len() <= SMALL_BYTES_MAX {
        return Ok(bytes.into());
    }
    charge.add(bytes.len())?;
    charge.keep(bytes.len());
    Ok(Bytes::from_owner(ChargedReply { bytes, _charge: charge }))
}

/// What is said of a reply to whoever asks for its head alone.
pub(super) fn without_body(reply: HttpReply) -> HttpReply {
    let (mut head, body) = reply.into_parts();
    if let Some(bytes) = hyper::body::Body::size_hint(&body).exact() {
        head.headers.insert(CONTENT_LENGTH, bytes.into());
    }
    Response::from_parts(head, ReplyBody::Whole(Bytes::new()))
}

/// A JSON text, with the newline that ends it.
pub(super) fn json(status: StatusCode, mut json: String) -> HttpReply {
    json.push('\n');
    response(status, JSON_TYPE, json)
}

/// A page of text.
pub(super) fn text(text: String) -> HttpReply {
    response(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"), text)
}

/// What a reply refuses, for the log.
#[derive(Clone)]
pub(super) struct Refusal(pub(super) Error);

/// An error, always in JSON (page 01 §1.5).
pub(super) fn error(error: &Error) -> HttpReply {
    let status = StatusCode::from_u16(error.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, encode::error_json(error));
    if tracing::enabled!(Level::DEBUG) {
        reply.extensions_mut().insert(Refusal(error.clone()));
    }
    let headers = reply.headers_mut();
    match error.kind() {
        ErrorKind::Unavailable => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
        ErrorKind::Unauthorized => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        ErrorKind::UnsupportedMediaType => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.insert(ACCEPT, HeaderValue::from_static(MEDIA_TYPES))
        }
        ErrorKind::MethodNotAllowed => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, PUT, POST, DELETE"))
        }
        _ => None,
    };
    reply
}
