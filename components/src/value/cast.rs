//! A value as one of another kind (protocol page 01 §2.7).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Value;
use super::error::{Error, Result};
use super::name::{Id, Link, Path};
use super::number::{Number, NumberType};

/// Base64 with or without padding.
const BASE64_ANY: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Value {
    /// What it is, in few words, for messages.
    pub fn describe(&self) -> String {
        format!("{self} ({})", self.class().path())
    }

    /// It as a number: null is false, text is parsed, one item unwraps and two are complex.
    ///
    /// # Errors
    /// 400 if it is not a number in any of these ways.
    pub fn to_number(&self) -> Result<Number> {
        let not_a_number = || Error::bad_request(format_args!("not a number: {}", self.describe()));
        match self {
            Self::None => Ok(Number::Bool(false)),
            Self::Number(number) => Ok(*number),
            Self::String(text) => Number::parse(text),
            Self::Id(id) => id.as_str().trim().parse::<f64>().map(Number::F64).map_err(|_| not_a_number()),
            Self::Tuple(items) => match &**items {
                [one] => one.to_number(),
                [re, im] => Ok(Number::complex(re.to_number()?, im.to_number()?)),
                _ => Err(not_a_number()),
            },
            Self::Bytes(_) | Self::Link(_) => Err(not_a_number()),
        }
    }

    /// Bytes from text in hexadecimal or base64, or from a tuple of numbers.
    pub fn to_bytes(&self) -> Option<Arc<[u8]>> {
        match self {
            Self::None => Some([].into()),
            Self::Bytes(bytes) => Some(bytes.clone()),
            Self::String(text) if text.ends_with('=') => BASE64_ANY.decode(&**text).ok().map(Into::into),
            Self::String(text) => {
                hex::decode(&**text).or_else(|_| BASE64_ANY.decode(&**text)).ok().map(Into::into)
            }
            Self::Tuple(items) => items
                .iter()
                .map(|item| match item.to_number().ok()?.cast(NumberType::U8) {
                    Number::U8(byte) => Some(byte),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// It as a link.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn to_link(&self) -> Result<Link> {
        match self {
            Self::None => Ok(Path::root().into()),
            Self::Number(Number::U8(_) | Number::U16(_) | Number::U32(_) | Number::U64(_)) => {
                Link::parse(&format!("/{self}"))
            }
            Self::String(text) => Link::parse(text),
            Self::Id(id) => Ok(Path::root().append(id.clone()).into()),
            Self::Link(link) => Ok(link.clone()),
            Self::Tuple(items) => {
                let path: Path =
                    items.iter().map(|item| Id::parse(&item.to_string())).collect::<Result<_>>()?;
                Ok(path.into())
            }
            Self::Bytes(_) | Self::Number(_) => Err(Error::bad_request(format_args!("{self} is not a link"))),
        }
    }

    /// It as a name: an id, or text that is one.
    ///
    /// # Errors
    /// 400 if it is not.
    pub fn to_id(&self) -> Result<Id> {
        match self {
            Self::Id(id) => Ok(id.clone()),
            Self::String(text) => Id::parse(text),
            other => Err(Error::bad_request(format_args!("{other} is not a name"))),
        }
    }

    /// It as an index below `len`: anything castable to a number, truncated.
    ///
    /// # Errors
    /// 400 if it is not a number; 404 if it is out of range.
    pub fn to_index(&self, len: usize) -> Result<usize> {
        match self.to_number()?.cast(NumberType::U64) {
            Number::U64(i) if i < len as u64 => Ok(i as usize),
            _ => Err(Error::not_found(format_args!("no item {self} in a tuple of {len}"))),
        }
    }
}

/// Bytes from text as collections show them, which is base64 with padding. Any other text is hexadecimal, or base64
/// without padding.
pub(crate) fn shown_bytes(text: &str) -> Option<Arc<[u8]>> {
    let shown = STANDARD.decode(text).ok();
    shown.or_else(|| hex::decode(text).ok()).or_else(|| BASE64_ANY.decode(text).ok()).map(Into::into)
}

/// Bytes from base64 text, padded or not.
///
/// # Errors
/// 400 if it is not base64.
pub fn base64(text: &str) -> Result<Arc<[u8]>> {
    BASE64_ANY
        .decode(text)
        .map(Into::into)
        .map_err(|cause| Error::bad_request(format_args!("not base64: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_truncated_and_bounded() {
        assert_eq!(Value::from(1.9).to_index(2).unwrap(), 1);
        assert_eq!(Value::from("1").to_index(2).unwrap(), 1);
        assert_eq!(Value::from(-1i64).to_index(2).unwrap_err().kind(), crate::ErrorKind::NotFound);
        assert_eq!(Value::from("x").to_index(2).unwrap_err().kind(), crate::ErrorKind::BadRequest);
    }
}
