//! Bounds and ranges as they are written (protocol page 02 §3).

use std::collections::BTreeMap;
use std::ops::Bound;

use super::declare::name;
use super::value_of;
use crate::language::cast;
use crate::language::state::State;
use crate::rows::bound::{Condition, Place, ValueRange};
use crate::rows::coerce::place;
use crate::rows::schema::{Column, ColumnType};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::number::NumberType;

/// What the bounds on a table mean: an object, or a list of pairs, of columns and what they may hold.
///
/// # Errors
/// 400 for a column that is not there or a bound that its column cannot have.
pub fn table_bounds(columns: &[Column], bounds: &State) -> Result<Vec<Condition>> {
    if bounds.is_none() {
        return Ok(Vec::new());
    }
    let pairs: Vec<(crate::Id, State)> = match bounds.as_map() {
        Some(map) => map.iter().map(|(name, bound)| (name.clone(), bound.clone())).collect(),
        None => {
            let malformed = || {
                Error::bad_request(format_args!(
                    "bounds are an object of columns or a list of [column, bound], not {}",
                    cast::describe(bounds)
                ))
            };
            let items = bounds.to_tuple().ok_or_else(malformed)?;
            let pair = |item: &State| match item.to_tuple().as_deref() {
                Some([column, bound]) => Ok((name(column)?, bound.clone())),
                _ => Err(malformed()),
            };
            items.iter().map(pair).collect::<Result<_>>()?
        }
    };
    let mut conditions: BTreeMap<usize, ValueRange> = BTreeMap::new();
    for (name, bound) in pairs {
        let position = columns
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| Error::bad_request(format_args!("there is no column {name}")))?;
        let range = column_bound(&columns[position], &value_of(&bound)?)?;
        if !range.is_all() {
            let so_far = conditions.entry(position).or_insert(ValueRange::ALL);
            *so_far = so_far.intersection(&range);
        }
    }
    Ok(conditions.into_iter().map(|(column, range)| Condition { column, range }).collect())
}

/// What a range of a BTree means: the first values of its keys, and last a range of the next one.
///
/// # Errors
/// 400 if it is longer than a key, or a value cannot be compared with those of its column.
pub fn btree_range(columns: &[Column], range: &State) -> Result<Vec<Condition>> {
    if range.is_none() {
        return Ok(Vec::new());
    }
    let items: Vec<Value> = match value_of(range)? {
        Value::Tuple(items) => items.to_vec(),
        scalar => vec![scalar],
    };
    if items.len() > columns.len() {
        return Err(Error::bad_request(format_args!(
            "a range has at most {} values here, not {}",
            columns.len(),
            items.len()
        )));
    }
    let mut conditions = Vec::with_capacity(items.len());
    for (i, (item, column)) in items.iter().zip(columns).enumerate() {
        let range = match item {
            Value::Tuple(sides) if i + 1 == items.len() && sides.len() == 2 && is_range(column, sides) => {
                sides_of(column, sides)?
            }
            value => ValueRange::equal_to(place(column, value)?),
        };
        if !range.is_all() {
            conditions.push(Condition { column: i, range });
        }
    }
    Ok(conditions)
}

/// Whether a pair at the end of a range of a BTree is a range: one of values without tags could also be a value
/// itself where pairs are values.
fn is_range(column: &Column, sides: &[Value]) -> bool {
    let pairs_are_values = matches!(
        column.class,
        ColumnType::Tuple | ColumnType::Number(NumberType::Complex | NumberType::C32 | NumberType::C64)
    );
    !pairs_are_values || sides.iter().any(|side| tagged(side).is_some())
}

fn column_bound(column: &Column, bound: &Value) -> Result<ValueRange> {
    match bound {
        Value::Tuple(sides) if sides.len() == 2 && sides.iter().any(|side| tagged(side).is_some()) => {
            sides_of(column, sides)
        }
        // Both sides are open: nothing else could be meant by it but in a tuple.
        Value::Tuple(sides)
            if sides.len() == 2
                && sides.iter().all(|side| matches!(side, Value::None))
                && !matches!(column.class, ColumnType::Tuple | ColumnType::Value) =>
        {
            Ok(ValueRange::ALL)
        }
        value => Ok(ValueRange::equal_to(place(column, value)?)),
    }
}

/// `["in", x]` or `["ex", x]`: whether it is inclusive, and the value.
fn tagged(side: &Value) -> Option<(bool, &Value)> {
    let Value::Tuple(pair) = side else {
        return None;
    };
    let [tag, value] = &**pair else {
        return None;
    };
    let tag = match tag {
        Value::String(tag) => &**tag,
        Value::Id(tag) => tag.as_str(),
        _ => return None,
    };
    match tag {
        "in" => Some((true, value)),
        "ex" => Some((false, value)),
        _ => None,
    }
}

fn sides_of(column: &Column, sides: &[Value]) -> Result<ValueRange> {
    let side = |side: &Value, is_start: bool| -> Result<Bound<Place>> {
        // Without a tag a start is inclusive and an end exclusive.
        let (is_inclusive, value) = tagged(side).unwrap_or((is_start, side));
        if let (None, Value::Tuple(pair)) = (tagged(side), side)
            && let [Value::String(tag), _] = &**pair
            && !matches!(column.class, ColumnType::Tuple | ColumnType::Value)
        {
            return Err(Error::bad_request(format_args!(
                "the column {}: a bound is \"in\" or \"ex\", not {tag:?}",
                column.name
            )));
        }
        Ok(match value {
            Value::None => Bound::Unbounded,
            value if is_inclusive => Bound::Included(place(column, value)?),
            value => Bound::Excluded(place(column, value)?),
        })
    };
    Ok(ValueRange::between(side(&sides[0], true)?, side(&sides[1], false)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::collection::declare::tests::{cities, shown, state};
    use crate::rows::schema::tests::inventory;

    fn table(text: &str) -> std::result::Result<String, String> {
        let conditions = table_bounds(inventory().columns(), &state(text));
        conditions.map(|all| shown(&all).join(" ")).map_err(|error| error.message().to_string())
    }

    fn tree(text: &str) -> std::result::Result<String, String> {
        let conditions = btree_range(cities().columns(), &state(text));
        conditions.map(|all| shown(&all).join(" ")).map_err(|error| error.message().to_string())
    }

    #[test]
    fn bounds_of_a_table_have_many_forms() {
        for (text, expected) in [
            (r#"{"color": "red"}"#, r#"1:"red""#),
            (r#"[["color", "red"], [{"qty": []}, 5]]"#, r#"1:"red" 2:5"#),
            (r#"{"qty": [["in", 2], ["ex", 9]]}"#, "2:=2..9"),
            (r#"{"qty": [["in", 2], ["in", 9]]}"#, "2:=2..=9"),
            (r#"{"qty": [["ex", 2], 9]}"#, "2:2..9"),
            (r#"{"qty": [["in", 2], null]}"#, "2:=2..*"),
            (r#"{"qty": [null, ["in", 9]]}"#, "2:*..=9"),
            (r#"{"qty": [["in", null], ["ex", 9]]}"#, "2:*..9"),
            (r#"{"qty": [["ex", null], ["in", null]]}"#, ""),
            (r#"{"qty": [["in", 2], ["in", 2]]}"#, "2:2"),
            (r#"[["qty", [["in", 2], null]], ["qty", [null, ["in", 5]]]]"#, "2:=2..=5"),
            (r#"{"qty": "5", "color": 7}"#, r#"1:"7" 2:5"#),
            (r#"{"qty": 2.0}"#, "2:2"),
            (r#"{"qty": true}"#, "2:1"),
            (r#"{"qty": [["in", 2.5], ["ex", 9.5]]}"#, "2:2..=9"),
            (r#"{"qty": [["ex", -2.5], ["in", -0.5]]}"#, "2:-3..=-1"),
            (r#"{"qty": [["in", "2.5"], null]}"#, "2:2..*"),
            (r#"{"qty": [["in", -5000000000], ["in", 5000000000]]}"#, "2:*..=2147483647"),
            (r#"{"sku": [["ex", -1], null]}"#, ""),
            (r#"{"sku": [["in", 0.5], ["ex", 1]]}"#, "0:0..1"),
            (r#"{"sku": [["in", 5.5], ["ex", 5]]}"#, "0:*..null"),
            (r#"{"sku": -1}"#, "0:*..null"),
            (r#"{"qty": 2.5}"#, "2:*..null"),
            (r#"{"qty": null}"#, "2:*..null"),
            (r#"{"qty": [2, 9]}"#, "2:*..null"),
            (r#"{"qty": 5000000000}"#, "2:*..null"),
            (r#"{"qty": [["ex", 5000000000], null]}"#, "2:2147483647..*"),
            ("{}", ""),
            ("[]", ""),
            ("null", ""),
        ] {
            assert_eq!(table(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, says) in [
            (r#"{"nope": 1}"#, "no column nope"),
            (r#"{"color": null}"#, "the column color"),
            (r#"{"qty": "x"}"#, "the column qty"),
            (r#"{"qty": [null]}"#, "the column qty"),
            (r#"{"qty": [["in", 1], ["a", 2]]}"#, "\"a\""),
            (r#"{"color": [["a", 1], ["b", 2]]}"#, "the column color"),
            (r#""qty""#, "bounds are"),
            (r#"[["qty"]]"#, "bounds are"),
        ] {
            let message = table(text).unwrap_err();
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn ranges_of_a_tree_have_many_forms() {
        for (text, expected) in [
            (r#""Oslo""#, r#"0:"Oslo""#),
            (r#"["Oslo"]"#, r#"0:"Oslo""#),
            (r#"["Oslo", "7"]"#, r#"0:"Oslo" 1:7"#),
            (r#"["Oslo", [["in", 2], ["ex", 9]]]"#, r#"0:"Oslo" 1:=2..9"#),
            (r#"["Oslo", [2, 9]]"#, r#"0:"Oslo" 1:=2..9"#),
            (r#"[[["in", "C"], ["ex", "P"]]]"#, r#"0:="C".."P""#),
            (r#"[[null, null]]"#, ""),
            (r#"["Oslo", null]"#, r#"0:"Oslo" 1:*..null"#),
            ("null", ""),
            ("[]", ""),
            ("{}", ""),
        ] {
            assert_eq!(tree(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, says) in [
            (r#"["Oslo", 5, 6]"#, "at most 2"),
            (r#"["Oslo", "x"]"#, "the column pop"),
            ("[null]", "the column city"),
            (r#"[[["a", 1], ["b", 2]]]"#, "\"a\""),
            (r#"[[["in", "A"], ["ex", "B"]], 5]"#, "the column city"),
        ] {
            let message = tree(text).unwrap_err();
            assert!(message.contains(says), "{text}: {message}");
        }
    }
}
