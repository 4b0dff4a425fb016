//! Bounds on the values of a column (protocol page 02 §3).

use std::ops::Bound;

use super::key::{Key, KeyRange};
use super::schema::Layout;
use crate::value::Value;

/// A value that those of a column are compared with, as one that the column can hold.
#[derive(Clone, Debug)]
pub enum Place {
    /// It is one of them.
    At(Value),
    /// It is greater than this one, and less than all that are greater than this.
    Above(Value),
    /// It is less than all of them.
    First,
}

/// The values between two bounds, in the order of keys. The bounds are values that the column can hold.
#[derive(Clone, Debug)]
pub struct ValueRange {
    /// Where it begins.
    pub start: Bound<Value>,
    /// Where it ends.
    pub end: Bound<Value>,
}

impl ValueRange {
    /// Every value.
    pub const ALL: ValueRange = ValueRange { start: Bound::Unbounded, end: Bound::Unbounded };

    /// No value: nothing is before the least one, which every column is compared with as if it could hold it.
    pub const NONE: ValueRange = ValueRange { start: Bound::Unbounded, end: Bound::Excluded(Value::None) };

    /// One value alone.
    pub fn equal(value: Value) -> Self {
        Self { start: Bound::Included(value.clone()), end: Bound::Included(value) }
    }

    /// The values of a column that are equal to one that is there.
    pub fn equal_to(place: Place) -> Self {
        Self::between(Bound::Included(place.clone()), Bound::Included(place))
    }

    /// The values of a column between two bounds, which it need not be able to hold.
    pub fn between(start: Bound<Place>, end: Bound<Place>) -> Self {
        let start = match start {
            Bound::Included(Place::At(value)) => Bound::Included(value),
            Bound::Excluded(Place::At(value))
            | Bound::Included(Place::Above(value))
            | Bound::Excluded(Place::Above(value)) => Bound::Excluded(value),
            Bound::Included(Place::First) | Bound::Excluded(Place::First) | Bound::Unbounded => {
                Bound::Unbounded
            }
        };
        let end = match end {
            Bound::Excluded(Place::At(value)) => Bound::Excluded(value),
            Bound::Included(Place::At(value) | Place::Above(value))
            | Bound::Excluded(Place::Above(value)) => Bound::Included(value),
            Bound::Included(Place::First) | Bound::Excluded(Place::First) => return Self::NONE,
            Bound::Unbounded => Bound::Unbounded,
        };
        let range = Self { start, end };
        if range.is_empty() { Self::NONE } else { range }
    }

    /// The value, if there can be just one.
    pub fn as_equal(&self) -> Option<&Value> {
        match (&self.start, &self.end) {
            (Bound::Included(start), Bound::Included(end)) if start.collate(end).is_eq() => Some(start),
            _ => None,
        }
    }

    /// Whether this says nothing.
    pub fn is_all(&self) -> bool {
        matches!((&self.start, &self.end), (Bound::Unbounded, Bound::Unbounded))
    }

    /// Whether there can be no value in the range.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (_, Bound::Excluded(Value::None)) => true,
            (Bound::Included(start), Bound::Included(end)) => start.collate(end).is_gt(),
            (
                Bound::Included(start) | Bound::Excluded(start),
                Bound::Included(end) | Bound::Excluded(end),
            ) => start.collate(end).is_ge(),
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        }
    }

    /// Whether a value is in the range.
    pub fn contains(&self, value: &Value) -> bool {
        (match &self.start {
            Bound::Included(start) => value.collate(start).is_ge(),
            Bound::Excluded(start) => value.collate(start).is_gt(),
            Bound::Unbounded => true,
        }) && match &self.end {
            Bound::Included(end) => value.collate(end).is_le(),
            Bound::Excluded(end) => value.collate(end).is_lt(),
            Bound::Unbounded => true,
        }
    }

    /// The values that are in both ranges.
    pub fn intersection(&self, other: &Self) -> Self {
        let tighter = |this: &Bound<Value>, that: &Bound<Value>, is_start: bool| {
            let (Bound::Included(a) | Bound::Excluded(a)) = this else { return that.clone() };
            let (Bound::Included(b) | Bound::Excluded(b)) = that else { return this.clone() };
            let order = if is_start { a.collate(b) } else { b.collate(a) };
            match order {
                std::cmp::Ordering::Greater => this.clone(),
                std::cmp::Ordering::Less => that.clone(),
                std::cmp::Ordering::Equal if matches!(this, Bound::Excluded(_)) => this.clone(),
                std::cmp::Ordering::Equal => that.clone(),
            }
        };
        Self { start: tighter(&self.start, &other.start, true), end: tighter(&self.end, &other.end, false) }
    }
}

/// What a row must meet: the value at a position in it is in a range.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The position of the column in the rows of the tree.
    pub column: usize,
    /// The values that it may have.
    pub range: ValueRange,
}

impl Condition {
    /// Whether a row meets it.
    pub fn is_met(&self, row: &[Value]) -> bool {
        self.range.contains(&row[self.column])
    }
}

impl KeyRange {
    /// The keys of a tree that begin with these values, and whose next one is in the range.
    ///
    /// # Panics
    /// If there are not so many columns, or a value is not of the type of its column.
    pub fn of(layout: &Layout, prefix: &[Value], range: &ValueRange) -> Self {
        if range.is_empty() {
            return Self::none();
        }
        let key = |value: &Value| Key::of_prefix(layout, &[prefix, std::slice::from_ref(value)].concat());
        let prefixed = Self::prefix(Key::of_prefix(layout, prefix));
        // What begins with a value comes right after the value itself.
        let start = match &range.start {
            Bound::Included(value) => Some(key(value)),
            Bound::Excluded(value) => match key(value).successor() {
                Some(key) => Some(key),
                None => return Self::none(),
            },
            Bound::Unbounded => None,
        };
        let end = match &range.end {
            Bound::Included(value) => key(value).successor(),
            Bound::Excluded(value) => Some(key(value)),
            Bound::Unbounded => None,
        };
        let bounded = Self { start: start.unwrap_or_else(|| prefixed.start.clone()), end };
        prefixed.intersection(&bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::schema::ColumnType;
    use proptest::prelude::*;

    fn any_bound() -> impl Strategy<Value = Bound<Value>> {
        prop_oneof![
            Just(Bound::Unbounded),
            (0i64..5).prop_map(|x| Bound::Included(x.into())),
            (0i64..5).prop_map(|x| Bound::Excluded(x.into())),
        ]
    }

    fn any_range() -> impl Strategy<Value = ValueRange> {
        (any_bound(), any_bound()).prop_map(|(start, end)| ValueRange { start, end })
    }

    proptest! {
        #[test]
        fn an_intersection_holds_what_is_in_both(a in any_range(), b in any_range(), x in 0i64..5) {
            let x = Value::from(x);
            prop_assert_eq!(a.intersection(&b).contains(&x), a.contains(&x) && b.contains(&x));
        }

        #[test]
        fn a_range_of_keys_holds_the_keys_of_its_values(range in any_range(), first in 0i64..3, x in 0i64..5) {
            let types = [ColumnType::Value; 3];
            let layout = Layout { types: types.into(), columns: [0, 1, 2].into(), key_len: 3 };
            let keys = KeyRange::of(&layout, &[1i64.into()], &range);
            let row: [Value; 3] = [first.into(), x.into(), "z".into()];
            prop_assert_eq!(keys.contains(&Key::of_row(&layout, &row)), first == 1 && range.contains(&row[1]));
        }
    }
}
