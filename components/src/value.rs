//! Values: what can be a key, be compared and be stored in a collection (protocol page 01 §2).
//!
//! The room beneath all others: names and numbers, errors, ids and limits belong to it.

pub mod cast;
pub mod document;
pub mod error;
pub mod ids;
pub mod json;
pub mod limits;
pub mod name;
pub mod native;
pub mod number;
pub mod transaction_id;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::value::error::{Error, Result};
use crate::value::limits::{ID_LEVELS, PATH_SEGMENTS_MAX, VALUE_BYTES, check_stored_depth};
use crate::value::name::{Id, Link};
use crate::value::native::NativeClass;
use crate::value::number::Number;

/// An immutable value of the language.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing.
    None,
    /// A number of any width.
    Number(Number),
    /// Raw bytes.
    Bytes(Arc<[u8]>),
    /// A name.
    Id(Id),
    /// Unicode text.
    String(Arc<str>),
    /// A link or path.
    Link(Link),
    /// A tuple of values.
    Tuple(Arc<[Value]>),
}

impl Value {
    /// Whether this means "no key": null, the empty tuple or the link `/` (page 01 §2.6).
    pub fn is_none(&self) -> bool {
        match self {
            Self::None => true,
            Self::Tuple(items) => items.is_empty(),
            Self::Link(link) => link.origin().is_none() && link.path().is_root(),
            _ => false,
        }
    }

    /// The class that it belongs to.
    pub fn class(&self) -> NativeClass {
        match self {
            Self::None => NativeClass::None,
            Self::Number(number) => NativeClass::Number(number.class()),
            Self::Bytes(_) => NativeClass::Bytes,
            Self::Id(_) => NativeClass::Id,
            Self::String(_) => NativeClass::String,
            Self::Link(_) => NativeClass::Link,
            Self::Tuple(_) => NativeClass::ValueTuple,
        }
    }

    /// How many levels of containers there are in it, as JSON shows it.
    pub fn depth(&self) -> u32 {
        match self {
            // It is shown as an object with an empty list, and so it may come back.
            Self::Id(_) => ID_LEVELS,
            Self::Tuple(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// What it takes in memory, counted as if nothing in it were shared, in bytes.
    pub fn bytes(&self) -> u64 {
        let content = match self {
            Self::None | Self::Number(_) => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Id(id) => id.as_str().len() as u64,
            Self::String(text) => text.len() as u64,
            Self::Link(link) => link.path().segments().len() as u64 * 32,
            Self::Tuple(items) => items.iter().map(Self::bytes).fold(0, u64::saturating_add),
        };
        VALUE_BYTES.saturating_add(content)
    }

    /// Check that it may be stored as (a part of) what a chain or a collection holds, or be a key of it.
    ///
    /// # Errors
    /// 400 if it nests too deep, or if a link in it has too many segments to be read as one.
    pub fn check_stored(&self) -> Result<()> {
        self.check_stored_within(0)
    }

    fn check_stored_within(&self, depth: u32) -> Result<()> {
        match self {
            Self::Id(_) => check_stored_depth(depth + ID_LEVELS),
            Self::Link(link) if link.path().segments().len() > PATH_SEGMENTS_MAX => Err(Error::bad_request(
                format_args!("a link that is stored has at most {PATH_SEGMENTS_MAX} segments"),
            )),
            Self::Tuple(items) => {
                check_stored_depth(depth + 1)?;
                items.iter().try_for_each(|item| item.check_stored_within(depth + 1))
            }
            _ => Ok(()),
        }
    }

    /// The place of this kind in the order of kinds (page 01 §7.4).
    fn rank(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Number(_) => 1,
            Self::Bytes(_) => 2,
            Self::Id(_) => 3,
            Self::String(_) => 4,
            Self::Link(_) => 5,
            Self::Tuple(_) => 6,
        }
    }

    /// The total order of values in collections (page 01 §7.4).
    pub fn collate(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(this), Self::Number(that)) => this.collate(that),
            (Self::Bytes(this), Self::Bytes(that)) => this.cmp(that),
            (Self::Id(this), Self::Id(that)) => this.cmp(that),
            (Self::String(this), Self::String(that)) => this.cmp(that),
            (Self::Link(this), Self::Link(that)) => this.to_string().cmp(&that.to_string()),
            (Self::Tuple(this), Self::Tuple(that)) => this
                .iter()
                .zip(that.iter())
                .map(|(this, that)| this.collate(that))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| this.len().cmp(&that.len())),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// Equality of the language: strict about kind, numbers by value (page 01 §5.2, §7.4).
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Number(this), Self::Number(that)) => this == that,
            (Self::Bytes(this), Self::Bytes(that)) => this == that,
            (Self::Id(this), Self::Id(that)) => this == that,
            (Self::String(this), Self::String(that)) => this == that,
            (Self::Link(this), Self::Link(that)) => this == that,
            (Self::Tuple(this), Self::Tuple(that)) => this == that,
            _ => false,
        }
    }
}

/// The text of a value, as a cast into a string gives it (page 01 §2.7).
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => write!(f, "({} bytes)", bytes.len()),
            Self::Id(id) => write!(f, "{id}"),
            Self::String(text) => f.write_str(text),
            Self::Link(link) => write!(f, "{link}"),
            Self::Tuple(items) => {
                f.write_str("(")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str(")")
            }
        }
    }
}

impl<N: Into<Number>> From<N> for Value {
    fn from(number: N) -> Self {
        Self::Number(number.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::limits::STORED_DEPTH_MAX;
    use crate::value::name::Path;

    #[test]
    fn values_are_stored_up_to_the_limits() {
        let nested = |levels: u32| (0..levels).fold(Value::None, |inner, _| Value::Tuple([inner].into()));
        assert!(nested(STORED_DEPTH_MAX).check_stored().is_ok());
        assert!(nested(STORED_DEPTH_MAX + 1).check_stored().is_err());
        let id = Value::Id(Id::literal("a"));
        let around_id = |levels: u32| (0..levels).fold(id.clone(), |inner, _| Value::Tuple([inner].into()));
        assert!(around_id(STORED_DEPTH_MAX - ID_LEVELS).check_stored().is_ok());
        assert!(around_id(STORED_DEPTH_MAX - ID_LEVELS + 1).check_stored().is_err());
        let link = |segments| Value::Link((0..segments).map(|_| Id::literal("a")).collect::<Path>().into());
        assert!(link(PATH_SEGMENTS_MAX).check_stored().is_ok());
        for value in [link(PATH_SEGMENTS_MAX + 1), Value::Tuple([link(PATH_SEGMENTS_MAX + 1)].into())] {
            assert!(value.check_stored().is_err());
        }
    }
}
