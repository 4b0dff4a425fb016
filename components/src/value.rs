//! Values: what can be a key, be compared and be stored in a collection (protocol page 01 §2).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::name::{Id, Link};
use crate::number::Number;

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
