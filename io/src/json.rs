//! JSON text into documents: simd-json makes a flat tape, and one walk of it fills an arena with the document.
//!
//! The tape is built without recursion and refuses more than [`DOCUMENT_DEPTH_MAX`] levels, so 100,000 brackets are an
//! error like any other. The buffers of the parser and the arena belong to the thread and are used again.

use std::cell::Cell;

use bumpalo::Bump;
use components::value::document::Document;
use components::value::limits::{DOCUMENT_DEPTH_MAX, DOCUMENT_VALUES_MAX};
use components::{Error, Number, Result};
use simd_json::{Buffers, ErrorType, Node, StaticNode, Tape};

/// A thread keeps its buffers and arena for the next text unless that text was longer than this.
pub const RETAINED_BYTES_MAX: usize = 256 * 1024;

/// How much of a text an error message quotes.
const QUOTE_BYTES_MAX: usize = 40;

/// What a thread uses again from text to text.
struct Parser {
    buffers: Buffers,
    tape: Tape<'static>,
    arena: Bump,
}

impl Parser {
    fn new() -> Self {
        Self { buffers: new_buffers(), tape: Tape(Vec::new()), arena: Bump::new() }
    }
}

fn new_buffers() -> Buffers {
    Buffers::with_max_depth(1024, DOCUMENT_DEPTH_MAX)
}

thread_local! {
    // Taken while in use: a reader that itself parses gets a parser of its own.
    static PARSER: Cell<Option<Box<Parser>>> = const { Cell::new(None) };
}

/// Parse a JSON text (protocol page 01 §2.3, "JSON tokens") and give the document to `read`.
///
/// Object members keep their order, duplicates included. An integer is an i64 if it fits, else a u64; any other
/// number is an f64. Strings are unescaped in place, so the text is destroyed.
///
/// # Errors
/// 400 that says what is wrong and at which byte, or the error of `read`.
pub fn with_document<T>(text: &mut [u8], read: impl FnOnce(Document<'_>) -> Result<T>) -> Result<T> {
    check_values(text, DOCUMENT_VALUES_MAX)?;
    let text_len = text.len();
    let mut parser = PARSER.take().unwrap_or_else(|| Box::new(Parser::new()));
    let Parser { buffers, tape, arena } = &mut *parser;
    let mut filled = std::mem::replace(tape, Tape(Vec::new())).reset();
    let result = match simd_json::fill_tape(&mut *text, buffers, &mut filled) {
        Ok(()) => {
            let document = document(&mut filled.0.iter(), arena);
            if text_len > RETAINED_BYTES_MAX {
                // The document borrows from the text and the arena: what led to it is as large, and is not needed any more.
                filled = Tape(Vec::new());
                *buffers = new_buffers();
            }
            Ok(document.and_then(read))
        }
        Err(error) => {
            let around = around(buffers.structural_indexes(), error.index());
            Err((error, around))
        }
    };
    *tape = filled.reset();
    if text.len() <= RETAINED_BYTES_MAX {
        parser.arena.reset();
        PARSER.set(Some(parser));
    }
    result.unwrap_or_else(|(error, around)| Err(describe(&error, text, around)))
}

/// Parse JSON bytes that the caller wants to keep: [`with_document`] on a copy.
///
/// # Errors
/// 400 that says what is wrong and at which byte, or the error of `read`.
pub fn with_copy<T>(text: &[u8], read: impl FnOnce(Document<'_>) -> Result<T>) -> Result<T> {
    with_document(&mut text.to_vec(), read)
}

/// Read one document off the tape. The depth of the recursion is that of the tape, which is limited.
fn document<'a>(nodes: &mut std::slice::Iter<'_, Node<'a>>, arena: &'a Bump) -> Result<Document<'a>> {
    let truncated = || Error::internal("the tape of a JSON text ended early");
    Ok(match *nodes.next().ok_or_else(truncated)? {
        Node::Static(StaticNode::Null) => Document::Null,
        Node::Static(StaticNode::Bool(flag)) => Document::Number(Number::Bool(flag)),
        Node::Static(StaticNode::I64(number)) => Document::Number(Number::I64(number)),
        Node::Static(StaticNode::U64(number)) => Document::Number(match i64::try_from(number) {
            Ok(number) => Number::I64(number),
            Err(_) => Number::U64(number),
        }),
        Node::Static(StaticNode::F64(number)) => Document::Number(Number::F64(number)),
        Node::String(text) => Document::String(text),
        Node::Array { len, .. } => {
            Document::List(arena.alloc_slice_try_fill_with(len, |_| document(nodes, arena))?)
        }
        Node::Object { len, .. } => Document::Map(arena.alloc_slice_try_fill_with(len, |_| {
            let Some(Node::String(name)) = nodes.next() else {
                return Err(truncated());
            };
            Ok((*name, document(nodes, arena)?))
        })?),
    })
}

/// Refuse a text with more than `values_max` values before anything is allocated for them: two bytes of text can
/// become a hundred bytes of values.
fn check_values(text: &[u8], values_max: usize) -> Result<()> {
    // A value takes at least one byte, and so does what separates it from the next.
    if text.len() / 2 < values_max {
        return Ok(());
    }
    let (mut values, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' | b':' if !in_string => values += 1,
            _ => {}
        }
    }
    if values >= values_max {
        return Err(Error::too_large(format_args!("a document holds at most {values_max} values")));
    }
    Ok(())
}

/// What a text will take in memory, as far as its tokens tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Weight {
    /// How many values are in it.
    pub values: usize,
    /// How many of them are states of their own, and not a part of a reference or literal.
    pub states: usize,
}

/// Weigh a text before it is parsed. It need not be well formed.
pub fn weigh(text: &[u8]) -> Weight {
    let mut weight = Weight { values: 1, states: 1 };
    let (mut at, mut depth) = (0, 0_usize);
    // How deep we are in a reference or literal, if we are: what is in it may become anything.
    let mut reference: Option<usize> = None;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => {
                while let Some(byte) = text.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b',' => {
                weight.values += 1;
                weight.states += usize::from(reference.is_none());
            }
            b'[' | b'{' => {
                depth += 1;
                let rest = text[at..].trim_ascii_start();
                if !matches!(rest.first(), None | Some(b']' | b'}')) {
                    weight.values += 1;
                    weight.states += usize::from(reference.is_none());
                }
                let is_subject =
                    matches!(rest, [b'"', b'$' | b'/' | b'\\', ..]) || rest.starts_with(b"\"http");
                if *byte == b'{' && reference.is_none() && is_subject {
                    reference = Some(depth);
                    // It may be a state that is named so, or one that takes no more than a value.
                    weight.states = weight.states.saturating_sub(1);
                }
            }
            b']' | b'}' => {
                reference = reference.filter(|of| *of < depth);
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
    }
    weight
}

/// Where the tokens before and after the one at `position` start.
fn around(tokens: &[u32], position: usize) -> (Option<usize>, Option<usize>) {
    let at = tokens.partition_point(|token| (*token as usize) < position);
    let start = |token: &u32| *token as usize;
    (at.checked_sub(1).and_then(|before| tokens.get(before)).map(start), tokens.get(at + 1).map(start))
}

/// What is wrong with a text, for the person who wrote it, given the tokens [`around`] the error.
fn describe(error: &simd_json::Error, text: &[u8], (before, after): (Option<usize>, Option<usize>)) -> Error {
    let invalid = |position: usize, what: &dyn std::fmt::Display| {
        Error::bad_request(format_args!("invalid JSON at byte {position}: {what}"))
    };
    let position = error.index().min(text.len());
    let trailing = || invalid(after.unwrap_or(position), &"text after the value");
    if text.iter().all(u8::is_ascii_whitespace) {
        return Error::bad_request("invalid JSON: there is no value");
    }
    match error.error() {
        ErrorType::InvalidUtf8 => {
            let position = std::str::from_utf8(text).map_or_else(|error| error.valid_up_to(), str::len);
            invalid(position, &"not UTF-8")
        }
        ErrorType::DepthLimitExceeded => {
            invalid(position, &format_args!("nested deeper than {DOCUMENT_DEPTH_MAX} levels"))
        }
        ErrorType::InvalidNumber | ErrorType::InvalidExponent => {
            // All of the token, so that what is quoted is what was written.
            let ends = |byte: &u8| byte.is_ascii_whitespace() || b",:[]{}\"".contains(byte);
            let start = text[..position].iter().rposition(ends).map_or(0, |at| at + 1);
            let length = text[start..].iter().position(ends);
            let token = &text[start..length.map_or(text.len(), |length| start + length)];
            let digits = token.strip_prefix(b"-").unwrap_or(token);
            let quote = String::from_utf8_lossy(&token[..token.len().min(QUOTE_BYTES_MAX)]);
            let is_infinite = || {
                let float = std::str::from_utf8(token).ok().and_then(|token| token.parse::<f64>().ok());
                digits.first().is_some_and(u8::is_ascii_digit) && float.is_some_and(f64::is_infinite)
            };
            if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0") {
                invalid(start, &format_args!("the integer {quote} is out of the range of i64 and u64"))
            } else if is_infinite() {
                invalid(start, &format_args!("{quote} is out of the range of f64"))
            } else {
                invalid(start, &format_args!("{quote:?} is not a number"))
            }
        }
        // The first pass finds these without a position.
        ErrorType::Syntax | ErrorType::Eof | ErrorType::UnterminatedString => Error::bad_request(
            "invalid JSON: the text ends early, or a string holds a control character or has no end",
        ),
        ErrorType::TrailingData => trailing(),
        // This is also how the parser says that something follows the list or object that is the value.
        ErrorType::InternalError
            if matches!(
                (before.and_then(|before| text.get(before)), error.character()),
                (Some(b'['), Some(']')) | (Some(b'{'), Some('}'))
            ) || matches!(error.character(), Some(']' | '}'))
                && !matches!(before.and_then(|before| text.get(before)), Some(b',' | b':' | b'[' | b'{')) =>
        {
            trailing()
        }
        kind => {
            let found = match error.character() {
                Some(found) => format!("{}, found {found:?}", phrase(kind)),
                None => phrase(kind).to_string(),
            };
            invalid(position, &found)
        }
    }
}

fn phrase(kind: &ErrorType) -> &'static str {
    match kind {
        ErrorType::ExpectedTrue => "expected true",
        ErrorType::ExpectedFalse => "expected false",
        ErrorType::ExpectedNull => "expected null",
        ErrorType::ExpectedArrayContent | ErrorType::ExpectedArrayComma => "expected ',' or ']'",
        ErrorType::ExpectedObjectContent | ErrorType::ExpectedMapComma => "expected a name, ',' or '}'",
        ErrorType::ExpectedObjectColon => "expected ':'",
        ErrorType::ExpectedObjectKey | ErrorType::KeyMustBeAString => "expected a name in double quotes",
        ErrorType::InvalidEscape | ErrorType::InvalidUnicodeEscape | ErrorType::InvalidUnicodeCodepoint => {
            "an invalid escape in a string"
        }
        ErrorType::NoStructure => "there is no value",
        _ => "expected a value",
    }
}

#[cfg(test)]
mod tests;
