//! TBON as far as replies and rows need it, written from protocol page 04 §4.3, not from the host.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// A number, with the byte of its type.
pub fn number(class: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(class);
    out.extend(bytes);
}

/// A text or bytes, between these.
pub fn delimited(open: u8, bytes: &[u8], close: u8, out: &mut Vec<u8>) {
    out.push(open);
    for byte in bytes {
        if [open, close, b'\\'].contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(close);
}

/// A document as JSON would show it: bytes as base64.
pub fn decode(mut bytes: &[u8]) -> Result<Value, String> {
    let value = next(&mut bytes)?;
    if bytes.is_empty() { Ok(value) } else { Err(format!("{} bytes are left", bytes.len())) }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or("it ends too early")?;
    *bytes = rest;
    Ok(taken)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    Ok(take(bytes, N)?.try_into().expect("so many bytes"))
}

fn until(bytes: &mut &[u8], close: u8) -> Result<Vec<u8>, String> {
    let mut taken = Vec::new();
    loop {
        match take(bytes, 1)?[0] {
            byte if byte == close => return Ok(taken),
            b'\\' => taken.push(take(bytes, 1)?[0]),
            byte => taken.push(byte),
        }
    }
}

/// Whether a list or map ends here.
fn ends(bytes: &mut &[u8], close: u8) -> bool {
    let is_end = bytes.first() == Some(&close);
    if is_end {
        *bytes = &bytes[1..];
    }
    is_end
}

fn next(bytes: &mut &[u8]) -> Result<Value, String> {
    Ok(match take(bytes, 1)?[0] {
        1 => Value::Null,
        2 => json!(take(bytes, 1)?[0] == 1),
        3 => json!(f32::from_be_bytes(fixed(bytes)?)),
        4 => json!(f64::from_be_bytes(fixed(bytes)?)),
        5 => json!(i8::from_be_bytes(fixed(bytes)?)),
        6 => json!(i16::from_be_bytes(fixed(bytes)?)),
        7 => json!(i32::from_be_bytes(fixed(bytes)?)),
        8 => json!(i64::from_be_bytes(fixed(bytes)?)),
        9 => json!(u8::from_be_bytes(fixed(bytes)?)),
        10 => json!(u16::from_be_bytes(fixed(bytes)?)),
        11 => json!(u32::from_be_bytes(fixed(bytes)?)),
        12 => json!(u64::from_be_bytes(fixed(bytes)?)),
        b'"' => json!(String::from_utf8(until(bytes, b'"')?).map_err(|cause| cause.to_string())?),
        b'<' => json!(STANDARD.encode(until(bytes, b'>')?)),
        b'[' => {
            let mut items = Vec::new();
            while !ends(bytes, b']') {
                items.push(next(bytes)?);
            }
            Value::Array(items)
        }
        b'{' => {
            let mut entries = Map::new();
            while !ends(bytes, b'}') {
                let name = next(bytes)?;
                let name = name.as_str().ok_or_else(|| format!("{name} is not a name"))?;
                entries.insert(name.into(), next(bytes)?);
            }
            Value::Object(entries)
        }
        other => return Err(format!("there is no type {other}")),
    })
}
