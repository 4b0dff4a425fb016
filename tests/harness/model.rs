//! What a service with collections and values is, alone: what each step does to it, and what it shows.

use std::cmp::Ordering;

use crate::datum::{Class, Datum, Fit, I16, I32, I64, TEXT_LEN_MAX, U8, U16, U32, U64};

/// Where the service is.
pub const SERVICE: &str = "/app/harness";

/// A row, or a key.
pub type Row = Vec<Datum>;

/// A hosted collection.
#[derive(Clone, Debug)]
pub struct Collection {
    pub name: &'static str,
    pub is_table: bool,
    pub is_block: bool,
    pub columns: Vec<(String, Class)>,
    pub key_len: usize,
    pub rows: Vec<Row>,
}

/// What a step must answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expected {
    Done,
    Refused,
    /// The pages do not say.
    Either,
}

impl Collection {
    fn new(name: &'static str, is_table: bool, key: &[Class], values: &[Class]) -> Self {
        let columns =
            key.iter().chain(values).enumerate().map(|(i, class)| (format!("c{i}"), *class)).collect();
        let is_block = name.ends_with("block");
        Self { name, is_table, is_block, columns, key_len: key.len(), rows: Vec::new() }
    }

    /// The collections that are served: each class as a key and as a value, in both kinds of chain.
    pub fn all() -> Vec<Self> {
        let every = [
            I16,
            I32,
            U8,
            U16,
            U32,
            U64,
            Class::F32,
            Class::F64,
            Class::C64,
            Class::Bool,
            Class::String,
            Class::Bytes,
        ];
        let table = |name, key: &[Class], values: &[Class]| Self::new(name, true, key, values);
        let btree = |name, key: &[Class]| Self::new(name, false, key, &[]);
        vec![
            table("typed", &[I64], &every),
            table("typed_block", &[I64], &every),
            table("any", &[Class::Any], &[Class::Any, Class::Tuple]),
            table("any_block", &[Class::Any], &[Class::Any, Class::Tuple]),
            table("floats", &[Class::F64, Class::String], &[I32]),
            table("narrow_block", &[U8, Class::F32], &[Class::String]),
            btree("tree", &[Class::String, U32]),
            btree("tree_block", &[Class::Any]),
            btree("bytes", &[Class::Bytes]),
        ]
    }

    pub fn path(&self) -> String {
        format!("{SERVICE}/{}", self.name)
    }

    /// A list of lists is one key of a tree whose first value may be a list (README, *A table*).
    pub fn reads_lists_as_rows(&self) -> bool {
        self.is_table || !matches!(self.columns[0].1, Class::Any | Class::Bytes)
    }

    /// The declaration of its chain, in the file of the cluster.
    pub fn declaration(&self) -> serde_json::Value {
        let columns: Vec<serde_json::Value> = self
            .columns
            .iter()
            .map(|(name, class)| match class.has_max_len() {
                true => serde_json::json!([name, { (class.path()): {} }, TEXT_LEN_MAX]),
                false => serde_json::json!([name, { (class.path()): {} }]),
            })
            .collect();
        let subject = if self.is_table {
            let (key, values) = columns.split_at(self.key_len);
            let index =
                self.columns.get(self.key_len).map(|(name, _)| serde_json::json!(["by_first", [name]]));
            let indices: Vec<_> = index.into_iter().collect();
            serde_json::json!({ "/state/collection/table": [[[key, values], indices]] })
        } else {
            serde_json::json!({ "/state/collection/btree": [columns] })
        };
        let kind = if self.is_block { "block" } else { "sync" };
        serde_json::json!({ (format!("/state/chain/{kind}")): [subject] })
    }

    /// A row of which at most one value does not fit.
    pub fn pick(&self, random: &mut crate::random::Random) -> Row {
        let mut row: Row = self.columns.iter().map(|(_, class)| class.pick(random)).collect();
        if random.one_in(4) {
            let at = random.below(row.len());
            row[at] = crate::datum::any(random);
        }
        if random.one_in(40) {
            row.pop();
        }
        row
    }

    /// A key that is there, or one that is not.
    pub fn pick_key(&self, random: &mut crate::random::Random) -> Row {
        if !self.rows.is_empty() && random.one_in(2) {
            return random.choose(&self.rows)[..self.key_len].to_vec();
        }
        let mut key: Row = self.columns[..self.key_len].iter().map(|(_, class)| class.pick(random)).collect();
        if random.one_in(3) {
            let at = random.below(key.len());
            key[at] = crate::datum::any(random);
        }
        key
    }

    /// The row as it is stored.
    fn fit(&self, row: &[Datum]) -> (Expected, Row) {
        if row.len() != self.columns.len() {
            return (Expected::Refused, Vec::new());
        }
        let mut expected = Expected::Done;
        let mut stored = Vec::new();
        for (datum, (_, class)) in row.iter().zip(&self.columns) {
            match class.fit(datum) {
                Fit::Stored(datum) => stored.push(datum),
                Fit::Refused => return (Expected::Refused, Vec::new()),
                Fit::Open => expected = Expected::Either,
            }
        }
        (expected, stored)
    }

    /// Whether the pages leave it open which key this is.
    pub fn is_open(&self, key: &[Datum]) -> bool {
        // Two values in the last place are a range of a tree (page 02 §3.2).
        let is_range = matches!(key.last(), Some(Datum::Tuple(items)) if items.len() == 2);
        (!self.is_table && is_range)
            || key.iter().zip(&self.columns).any(|(datum, (_, class))| matches!(class.fit(datum), Fit::Open))
    }

    /// What a key, or the beginning of one, means.
    fn meant(&self, key: &[Datum]) -> Row {
        key.iter().zip(&self.columns).map(|(datum, (_, class))| class.meant(datum.clone())).collect()
    }

    fn position(&self, key: &[Datum]) -> Option<usize> {
        let key = self.meant(key);
        self.rows.iter().position(|row| compare(&row[..self.key_len], &key) == Ordering::Equal)
    }

    /// Insert or replace all of these rows, or none.
    pub fn put(&mut self, rows: &[Row]) -> Expected {
        let fitted: Vec<_> = rows.iter().map(|row| self.fit(row)).collect();
        for wanted in [Expected::Refused, Expected::Either] {
            if fitted.iter().any(|(expected, _)| *expected == wanted) {
                return wanted;
            }
        }
        for (_, row) in fitted {
            match self.position(&row[..self.key_len]) {
                // The key of a tree that is there already stays as it is.
                Some(at) if self.is_table => self.rows[at] = row,
                Some(_) => {}
                None => self.rows.push(row),
            }
        }
        Expected::Done
    }

    /// Whether a key may be there at all: a value that the column cannot hold finds nothing.
    pub fn find(&self, key: &[Datum]) -> Option<&Row> {
        self.position(key).map(|at| &self.rows[at])
    }

    /// Delete a row.
    pub fn delete(&mut self, key: &[Datum]) {
        if let Some(at) = self.position(key) {
            self.rows.remove(at);
        }
    }

    /// Delete all keys that begin so.
    pub fn delete_prefix(&mut self, prefix: &[Datum]) {
        let prefix = self.meant(prefix);
        self.rows.retain(|row| compare(&row[..prefix.len()], &prefix) != Ordering::Equal);
    }

    /// The rows, in the order of their keys.
    pub fn shown(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        rows.sort_by(|this, that| compare(&this[..self.key_len], &that[..self.key_len]));
        rows
    }

    /// Rows that the host shows.
    pub fn rows_of(&self, shown: &serde_json::Value) -> Result<Vec<Row>, String> {
        let classes = || self.columns.iter().map(|(_, class)| *class);
        let rows = shown.as_array().ok_or_else(|| format!("not rows: {shown}"))?;
        rows.iter()
            .map(|row| match Datum::of(row) {
                Datum::Tuple(row) if row.len() == self.columns.len() => {
                    Ok(row.into_iter().zip(classes()).map(|(datum, class)| class.shown(datum)).collect())
                }
                other => Err(format!("not a row: {other:?}")),
            })
            .collect()
    }

    /// How a list of rows differs from what must be shown.
    pub fn difference(&self, rows: &[Row]) -> Option<String> {
        let expected = self.shown();
        if rows.len() != expected.len() {
            return Some(format!("{} rows, not {}: {rows:?}, not {expected:?}", rows.len(), expected.len()));
        }
        // `true` and 1 are one key; which of both is shown is not said.
        let is_same = |(this, that): &(&Row, &Row)| {
            let key_len = self.key_len;
            this.len() == that.len()
                && compare(&this[..key_len], &that[..key_len]) == Ordering::Equal
                && this[key_len..].iter().zip(&that[key_len..]).all(|(this, that)| this.is_same(that))
        };
        let (row, expected) = rows.iter().zip(&expected).find(|pair| !is_same(pair))?;
        Some(format!("the row {row:?}, not {expected:?}"))
    }
}

/// The order of two keys.
pub fn compare(this: &[Datum], that: &[Datum]) -> Ordering {
    this.iter().zip(that).map(|(this, that)| this.compare(that)).fold(Ordering::Equal, Ordering::then)
}

/// A chain around a value.
#[derive(Clone, Debug)]
pub struct Chain {
    pub name: &'static str,
    pub initial: Datum,
    pub value: Datum,
    /// What was written, in order, if that is known.
    pub written: Option<Vec<Datum>>,
}

impl Chain {
    /// The values that are served.
    pub fn all() -> Vec<Self> {
        let chain =
            |name, initial: Datum| Self { name, value: initial.clone(), initial, written: Some(Vec::new()) };
        vec![
            chain("number", Datum::Int(0)),
            chain("number_block", Datum::Int(5)),
            chain("text", Datum::text("")),
            chain("text_block", Datum::text("a")),
            chain("nothing", Datum::Null),
            chain("nothing_block", Datum::Null),
        ]
    }

    pub fn path(&self) -> String {
        format!("{SERVICE}/{}", self.name)
    }

    /// The declaration, in the file of the cluster.
    pub fn declaration(&self) -> serde_json::Value {
        let kind = if self.name.ends_with("block") { "block" } else { "sync" };
        let initial: serde_json::Value = serde_json::from_str(&self.initial.json()).expect("JSON");
        serde_json::json!({ (format!("/state/chain/{kind}")): [initial] })
    }

    /// A write keeps the class of the declared value (page 00).
    pub fn put(&mut self, value: &Datum) -> Expected {
        let expected = match (&self.initial, value) {
            (_, value) if !value.is_document() => Expected::Refused,
            (Datum::Null, _) => Expected::Done,
            // Page 01 counts booleans among the numbers, and numbers may have two parts.
            (Datum::Int(_), Datum::Bool(_) | Datum::Complex(..)) => Expected::Either,
            (Datum::Int(_), Datum::Int(_) | Datum::Float(_)) => Expected::Done,
            (Datum::Text(_), Datum::Text(_)) => Expected::Done,
            _ => Expected::Refused,
        };
        if expected == Expected::Done {
            self.set(value.clone());
        }
        expected
    }

    /// A value has come.
    pub fn set(&mut self, value: Datum) {
        self.value = value.clone();
        if let Some(written) = &mut self.written {
            written.push(value);
        }
    }

    /// Whether its history is kept.
    pub fn is_block(&self) -> bool {
        self.name.ends_with("block")
    }

    /// How a history, as it is shown (page 04 §4.1), differs from what was written: each transaction once, in the order
    /// of their ids.
    pub fn history_difference(&self, shown: &serde_json::Value) -> Option<String> {
        let written = self.written.as_ref()?;
        let recorded = self.recorded(shown)?;
        let is_same = recorded.len() == written.len()
            && recorded.iter().zip(written).all(|(recorded, written)| recorded.is_same(written));
        (!is_same).then(|| format!("the history of {} has {recorded:?}, not {written:?}", self.name))
    }

    /// The values that a history has, in order; none if it is not a history.
    pub fn recorded(&self, shown: &serde_json::Value) -> Option<Vec<Datum>> {
        let blocks = shown.get("/state/chain/block")?.get(1)?.as_array()?;
        let mut recorded = Vec::new();
        for block in blocks {
            for mutations in block.get(1)?.as_object()?.values() {
                recorded.extend(mutations.as_array()?.iter().filter_map(|one| one.get(2)).map(Datum::of));
            }
        }
        Some(recorded)
    }
}
