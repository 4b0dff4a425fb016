//! Rows out of a JSON list of lists.
//!
//! Most values of rows are integers, short decimals and plain texts: those are read here and go into their columns at
//! once. Any other value is cut out of the text and read as the ordinary decoder reads it, so that both always agree.

use std::sync::Arc;

use components::language::collection::value_of;
use components::language::decode;
use components::rows::columns::{Cell, Columns, Import};
use components::rows::schema::{CollectionKind, Schema};
use components::{Error, Number, Result, Value};

use super::UNCHARGED_BYTES_MAX;

/// Decode a JSON list of rows, each a list of values for all columns of the schema, in its order; none if it is
/// something else: no list that begins with a list or, for a BTree, with anything but lists in it or nothing.
/// `charge` is asked for the memory of the rows, in bytes.
///
/// # Errors
/// 400 if it is malformed; as [`Import::push`].
pub fn json(
    schema: &Arc<Schema>,
    bytes: &[u8],
    charge: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Option<Columns>> {
    // The ordinary decoder says what is wrong with a text that is not one.
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(None) };
    match (Scanner { text, bytes, at: 0 }).rows(schema, charge) {
        Ok(rows) => Ok(rows),
        // What is no list of rows after all is not refused for what it would be as one.
        Err(_) if schema.kind() == CollectionKind::BTree && !is_list_of_lists(bytes) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The value that a JSON text is, as one of a row.
///
/// # Errors
/// 400 if it is not the JSON of a value.
pub(super) fn value(text: &str) -> Result<Value> {
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0 };
    scanner.peek();
    let token = scanner.cell()?;
    if scanner.peek() != 0 || scanner.at < text.len() {
        return Err(scanner.invalid("the end of the value"));
    }
    Ok(match token {
        Token::Number(number) => Value::Number(number),
        Token::Text(text) => Value::String(text.into()),
        Token::Unescaped(text) => Value::String(text.into()),
        Token::Value(value) => value,
    })
}

/// Whether each item of a list starts as a list. It need not be well formed.
fn is_list_of_lists(bytes: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped, mut is_item_next) = (0_usize, false, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' if in_string => in_string = false,
            _ if in_string || byte.is_ascii_whitespace() => {}
            _ if is_item_next && *byte != b'[' => return false,
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                is_item_next = depth == 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => is_item_next = depth == 1,
            _ => {}
        }
    }
    true
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte that is not white space; zero, which no JSON has there, at the end.
    #[inline]
    fn peek(&mut self) -> u8 {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    fn invalid(&mut self, expected: &str) -> Error {
        self.peek();
        let at = self.at;
        match self.text.get(at..).and_then(|rest| rest.chars().next()) {
            Some(found) => Error::bad_request(format_args!(
                "invalid JSON at byte {at}: expected {expected}, found {found:?}"
            )),
            None => Error::bad_request(format_args!("invalid JSON at byte {at}: the text ends early")),
        }
    }

    fn rows(
        mut self,
        schema: &Arc<Schema>,
        charge: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Option<Columns>> {
        if self.peek() != b'[' {
            return Ok(None);
        }
        self.at += 1;
        let mut import = Import::new(schema.clone());
        let mut charged_bytes = 0;
        if self.peek() == b']' {
            self.at += 1;
            if schema.kind() == CollectionKind::BTree {
                return Ok(None);
            }
        } else {
            loop {
                if self.peek() != b'[' {
                    // A BTree has such keys. A table has no such row, but nothing else that starts with a row either.
                    return match import.is_empty() || schema.kind() == CollectionKind::BTree {
                        true => Ok(None),
                        false => {
                            let cause = self.invalid("a row, which is a list");
                            Err(import.refused(usize::MAX, &cause))
                        }
                    };
                }
                self.row(&mut import)?;
                if import.bytes() - charged_bytes > UNCHARGED_BYTES_MAX {
                    charge(import.bytes() - charged_bytes)?;
                    charged_bytes = import.bytes();
                }
                match self.peek() {
                    b',' => self.at += 1,
                    b']' => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.invalid("',' or ']'")),
                }
                self.peek();
            }
        }
        self.peek();
        if self.at < self.bytes.len() {
            let at = self.at;
            return Err(Error::bad_request(format_args!("invalid JSON at byte {at}: text after the value")));
        }
        charge(import.bytes() - charged_bytes)?;
        Ok(Some(import.finish()))
    }

    fn row(&mut self, import: &mut Import) -> Result<()> {
        self.at += 1;
        let columns_len = import.schema().columns().len();
        let mut values = 0;
        if self.peek() == b']' {
            self.at += 1;
            return import.end_row(values);
        }
        loop {
            self.peek();
            let cell = self.cell().map_err(|cause| import.refused(values, &cause))?;
            if values < columns_len {
                cell.push(import, values)?;
            }
            values += 1;
            match self.peek() {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return import.end_row(values);
                }
                _ => return Err(self.invalid("',' or ']'")),
            }
        }
    }

    #[inline]
    fn cell(&mut self) -> Result<Token<'a>> {
        let start = self.at;
        match self.bytes.get(start) {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') if self.bytes[start..].starts_with(b"true") => self.word(4, Number::Bool(true).into()),
            Some(b'f') if self.bytes[start..].starts_with(b"false") => {
                self.word(5, Number::Bool(false).into())
            }
            Some(b'n') if self.bytes[start..].starts_with(b"null") => self.word(4, Value::None),
            Some(b'[' | b'{') => self.nested(),
            _ => Err(self.invalid("a value")),
        }
    }

    fn word(&mut self, len: usize, value: Value) -> Result<Token<'a>> {
        self.at += len;
        Ok(Token::Value(value))
    }

    #[inline]
    fn string(&mut self) -> Result<Token<'a>> {
        let start = self.at;
        let rest = &self.bytes[start + 1..];
        match rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
            Some(len) if rest[len] == b'"' => {
                self.at += len + 2;
                Ok(Token::Text(&self.text[start + 1..start + 1 + len]))
            }
            _ => self.escaped(start),
        }
    }

    /// A string with escapes in it, or without an end.
    #[inline(never)]
    fn escaped(&mut self, start: usize) -> Result<Token<'a>> {
        let Some(end) = string_end(self.bytes, start) else {
            self.at = self.bytes.len();
            return Err(self.invalid("'\\\"'"));
        };
        self.at = end;
        match serde_json::from_str(&self.text[start..end]) {
            Ok(text) => Ok(Token::Unescaped(text)),
            Err(_) => self.ordinary(start),
        }
    }

    #[inline]
    fn number(&mut self) -> Result<Token<'a>> {
        let start = self.at;
        let is_negative = self.bytes[start] == b'-';
        let digits_start = start + usize::from(is_negative);
        let mut at = digits_start;
        let mut magnitude = 0_u64;
        while let Some(digit) =
            self.bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
        {
            // More digits than fit are not used.
            magnitude = magnitude.wrapping_mul(10).wrapping_add(digit.into());
            at += 1;
        }
        let digits = at - digits_start;
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
        let is_plain = digits > 0 && (digits == 1 || self.bytes[digits_start] != b'0');
        // Zero may not be negative: there the ordinary decoder decides.
        if is_plain
            && digits < 19
            && !self.bytes.get(at).is_some_and(is_number)
            && !(is_negative && magnitude == 0)
        {
            self.at = at;
            let magnitude = magnitude as i64;
            return Ok(Token::Number(Number::I64(if is_negative { -magnitude } else { magnitude })));
        }
        self.other_number(start)
    }

    #[inline(never)]
    fn other_number(&mut self, start: usize) -> Result<Token<'a>> {
        let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
        let rest = &self.bytes[start..];
        let len = rest.iter().position(|byte| !is_number(byte)).unwrap_or(rest.len());
        self.at = start + len;
        let text = &self.text[start..self.at];
        let number = match serde_json::from_str(text) {
            Ok(serde_json::Value::Number(number)) => number,
            _ => return self.ordinary(start),
        };
        let is_integer = !text.contains(['.', 'e', 'E']);
        Ok(Token::Number(match (number.as_i64(), number.as_u64()) {
            (Some(number), _) if is_integer => Number::I64(number),
            (None, Some(number)) if is_integer => Number::U64(number),
            // What is an integer to nobody, and whatever is not finite, is for the ordinary decoder.
            _ => match text.parse::<f64>() {
                Ok(number) if number.is_finite() && !is_integer => Number::F64(number),
                _ => return self.ordinary(start),
            },
        }))
    }

    /// A list or object.
    fn nested(&mut self) -> Result<Token<'a>> {
        let start = self.at;
        let (mut depth, mut at) = (0_usize, start);
        while let Some(byte) = self.bytes.get(at) {
            match byte {
                b'"' => match string_end(self.bytes, at) {
                    Some(end) => {
                        at = end;
                        continue;
                    }
                    None => break,
                },
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                self.at = at;
                return self.ordinary(start);
            }
        }
        self.at = self.bytes.len();
        Err(self.invalid("']'"))
    }

    /// The value from `start` to here as the ordinary decoder reads it.
    fn ordinary(&self, start: usize) -> Result<Token<'a>> {
        let value = crate::json::with_copy(&self.bytes[start..self.at], |document| {
            Ok(decode::state(document).and_then(|state| value_of(&state)))
        });
        match value {
            Ok(value) => value.map(Token::Value),
            Err(malformed) => Err(malformed.context(format_args!("in the value at byte {start}"))),
        }
    }
}

/// Where a string ends that starts at `start`, if it does.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A value of a row.
enum Token<'a> {
    Number(Number),
    Text(&'a str),
    Unescaped(String),
    Value(Value),
}

impl Token<'_> {
    #[inline]
    fn push(self, import: &mut Import, column: usize) -> Result<()> {
        match self {
            Self::Number(number) => import.push(column, Cell::Number(number)),
            Self::Text(text) => import.push(column, Cell::Text(text)),
            Self::Unescaped(text) => import.push(column, Cell::Text(&text)),
            Self::Value(value) => import.push(column, Cell::Value(value)),
        }
    }
}
