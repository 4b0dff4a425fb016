//! Collections of two services: what random transactions ask of them, and what one transaction does alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use components::language::decode;
use components::language::reference::Verb;
use components::rows::bulk::Bulk;
use components::rows::columns::{Columns, sort};
use components::rows::runs::{MemoryScratch, Runs};
use components::rows::schema::{CollectionKind, Schema};
use components::{Number, Path, Request, State};
use io::json;
use serde_json::{Value, json};

use crate::machine::{post, request};
use crate::random::Random;
use crate::services::{after, choose, post_method, spin_from};

/// How bodies are cut that do not fit in memory.
const SPILLED_RUN_ROWS: usize = 4;
const SPILLED_PART_BYTES: usize = 200;

/// A value of a column.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cell {
    Int(i64),
    Text(String),
}

impl Cell {
    fn json(&self) -> Value {
        match self {
            Cell::Int(number) => json!(number),
            Cell::Text(text) => json!(text),
        }
    }

    fn of(json: &Value) -> Self {
        match json {
            Value::String(text) => Cell::Text(text.clone()),
            number => Cell::Int(number.as_i64().unwrap_or_else(|| panic!("not a cell: {number}"))),
        }
    }
}

/// The values of a row, or of its key.
pub type Cells = Vec<Cell>;

/// A hosted collection.
#[derive(Debug)]
pub struct Declared {
    pub path: &'static str,
    pub is_table: bool,
    /// The names of the columns; those with texts begin with `t_`.
    pub columns: &'static [&'static str],
    pub key_len: usize,
    /// The columns of each index.
    pub indices: &'static [&'static [usize]],
}

/// A table with two indices; a table that keeps its history; a BTree and a table in each kind of chain.
pub const COLLECTIONS: [Declared; 6] = [
    table("/app/shop/items", &["sku", "t_color", "qty"], 1, &[&[1], &[2]]),
    table("/app/book/orders", &["t_who", "number", "total"], 2, &[&[2]]),
    btree("/app/shop/both/0", &["t_city", "pop"]),
    table("/app/shop/both/1", &["id", "t_name"], 1, &[&[1]]),
    btree("/app/book/both/0", &["t_city", "pop"]),
    table("/app/book/both/1", &["id", "rank"], 1, &[&[1]]),
];

const fn table(
    path: &'static str,
    columns: &'static [&'static str],
    key_len: usize,
    indices: &'static [&'static [usize]],
) -> Declared {
    Declared { path, is_table: true, columns, key_len, indices }
}

const fn btree(path: &'static str, columns: &'static [&'static str]) -> Declared {
    Declared { path, is_table: false, columns, key_len: columns.len(), indices: &[] }
}

/// The chains that keep their history, with the collections in each.
pub const HISTORIES: [(&str, &[usize]); 2] = [("/app/book/orders", &[1]), ("/app/book/both", &[4, 5])];

impl Declared {
    fn is_text(&self, column: usize) -> bool {
        self.columns[column].starts_with("t_")
    }

    fn schema(&self) -> Value {
        let column = |i: usize| match self.is_text(i) {
            true => json!([self.columns[i], "/state/scalar/value/string", 16]),
            false => json!([self.columns[i], "/state/scalar/value/number/int/64"]),
        };
        let columns: Vec<Value> = (0..self.columns.len()).map(column).collect();
        if !self.is_table {
            return json!({ "/state/collection/btree": [columns] });
        }
        let (key, values) = columns.split_at(self.key_len);
        let indices = self.indices.iter().map(|columns| {
            let names: Vec<&str> = columns.iter().map(|i| self.columns[*i]).collect();
            json!([format!("by_{}", names.join("_")), names])
        });
        json!({ "/state/collection/table": [[[key, values], indices.collect::<Vec<_>>()]] })
    }

    /// The body of a request that puts rows.
    fn bulk(&self, rows: &[Cells], scratch: &Arc<MemoryScratch>) -> State {
        let (class, schema) = match self.is_table {
            true => (CollectionKind::Table, &self.schema()["/state/collection/table"][0]),
            false => (CollectionKind::BTree, &self.schema()["/state/collection/btree"][0]),
        };
        let schema = json::with_copy(schema.to_string().as_bytes(), decode::state).expect("a schema");
        let schema = Arc::new(Schema::declared(class, &schema).expect("a schema"));
        let value = |cell: &Cell| match cell {
            Cell::Int(number) => components::Value::Number(Number::I64(*number)),
            Cell::Text(text) => components::Value::String(text.as_str().into()),
        };
        let rows: Vec<Vec<components::Value>> =
            rows.iter().map(|row| row.iter().map(value).collect()).collect();
        let layout = &schema.layouts()[0];
        let columns = |rows: &[Vec<_>]| Columns::from_rows(&layout.types, rows.iter().map(|row| &row[..]));
        // Every other body does not fit in memory, unless a history records it.
        let bulk = if rows.len().is_multiple_of(2) || self.path.starts_with("/app/book") {
            Bulk::new(schema.clone(), columns(&rows))
        } else {
            let mut runs = Runs::new(scratch.clone(), SPILLED_PART_BYTES);
            for rows in rows.chunks(SPILLED_RUN_ROWS) {
                let run = runs.write(layout, &sort(layout, columns(rows))).expect("memory");
                runs.push(run);
            }
            let sent = runs.rows();
            Bulk::spilled(schema.clone(), runs, sent)
        };
        State::Bulk(Arc::new(bulk))
    }

    fn is_full_key(&self, order: &[usize]) -> bool {
        (0..self.key_len).all(|column| order.contains(&column))
    }
}

/// The services around these collections, and one that runs any op.
pub fn services() -> Value {
    let schema = |i: usize| COLLECTIONS[i].schema();
    json!({
        "/app/shop": {
            "items": { "/state/chain/sync": [schema(0)] },
            "both": { "/state/chain/sync": [[schema(2), schema(3)]] },
            "run": post_method(json!([["_return", { "$op": {} }]])),
        },
        "/app/book": {
            "orders": { "/state/chain/block": [schema(1)] },
            "both": { "/state/chain/block": [[schema(4), schema(5)]] },
        },
    })
}

/// Which values of a column are asked for; an end is a value and whether it is among them.
#[derive(Clone, Debug)]
pub struct Interval {
    pub from: Option<(Cell, bool)>,
    pub to: Option<(Cell, bool)>,
}

#[derive(Clone, Debug)]
pub enum Bound {
    Is(Cell),
    Within(Interval),
}

impl Bound {
    fn json(&self) -> Value {
        let end = |end: &Option<(Cell, bool)>| match end {
            None => json!(["in", null]),
            Some((cell, is_included)) => json!([if *is_included { "in" } else { "ex" }, cell.json()]),
        };
        match self {
            Bound::Is(cell) => cell.json(),
            Bound::Within(Interval { from, to }) => json!([end(from), end(to)]),
        }
    }

    fn is_met(&self, cell: &Cell) -> bool {
        match self {
            Bound::Is(value) => cell == value,
            Bound::Within(Interval { from, to }) => {
                from.as_ref().is_none_or(|(from, is_in)| cell > from || (*is_in && cell == from))
                    && to.as_ref().is_none_or(|(to, is_in)| cell < to || (*is_in && cell == to))
            }
        }
    }
}

/// Rows of a collection.
#[derive(Clone, Debug)]
pub struct Query {
    pub collection: usize,
    /// Of a BTree these are on its first columns, and only the last one is an interval.
    pub bounds: Vec<(usize, Bound)>,
    /// By these columns, if that matters; a BTree has only its own order.
    pub order: Option<Vec<usize>>,
    pub is_reversed: bool,
    pub limit: Option<usize>,
}

impl Query {
    /// Every row.
    pub fn all(collection: usize) -> Self {
        Self { collection, bounds: Vec::new(), order: None, is_reversed: false, limit: None }
    }

    /// Those with a value in a column.
    pub fn with(mut self, column: usize, value: Cell) -> Self {
        self.bounds.push((column, Bound::Is(value)));
        self
    }

    fn declared(&self) -> &'static Declared {
        &COLLECTIONS[self.collection]
    }

    fn bounds_json(&self) -> Value {
        if self.declared().is_table {
            let named = |(i, bound): &(usize, Bound)| (self.declared().columns[*i].to_string(), bound.json());
            self.bounds.iter().map(named).collect::<serde_json::Map<_, _>>().into()
        } else {
            self.bounds.iter().map(|(_, bound)| bound.json()).collect()
        }
    }

    /// The entries of a context that make this a view, each after `before`; the last of them is named `name`.
    fn entries(&self, name: &str, before: &Option<String>) -> Vec<Value> {
        let declared = self.declared();
        let first = match (declared.is_table, self.bounds.is_empty()) {
            (true, true) => json!({ declared.path: [null] }),
            (true, false) => json!({ declared.path: { "bounds": self.bounds_json() } }),
            (false, _) => {
                json!({ declared.path: { "range": self.bounds_json(), "reverse": self.is_reversed } })
            }
        };
        let mut calls = vec![first];
        if let Some(order) = &self.order {
            let names: Vec<&str> = order.iter().map(|i| declared.columns[*i]).collect();
            calls.push(json!({ "order": [[names, self.is_reversed]] }));
        }
        if let Some(limit) = self.limit {
            calls.push(json!({ "limit": [limit] }));
        }
        let mut entries = Vec::new();
        let last = calls.len() - 1;
        for (i, call) in calls.into_iter().enumerate() {
            let call = match i {
                0 => call,
                _ => {
                    let (method, key) = call.as_object().and_then(|map| map.iter().next()).expect("a call");
                    json!({ format!("${name}_{}/{method}", i - 1): key })
                }
            };
            let entry = if i == last { name.to_string() } else { format!("{name}_{i}") };
            entries.push(json!([entry, sequenced(before, call)]));
        }
        entries
    }

    fn matching(&self, model: &Model) -> Vec<Cells> {
        let is_met = |row: &&Cells| self.bounds.iter().all(|(column, bound)| bound.is_met(&row[*column]));
        model.0[self.collection].values().filter(is_met).cloned().collect()
    }

    fn count(&self, model: &Model) -> usize {
        self.matching(model).len().min(self.limit.unwrap_or(usize::MAX))
    }

    fn order_of(&self) -> Option<Vec<usize>> {
        match self.declared().is_table {
            true => self.order.clone(),
            false => Some((0..self.declared().columns.len()).collect()),
        }
    }

    /// Whether these rows answer the query.
    fn check(&self, model: &Model, answer: &Value) -> Result<(), String> {
        let shown = shown_rows(answer).ok_or_else(|| format!("not rows: {answer}"))?;
        let mut expected = self.matching(model);
        let len = expected.len().min(self.limit.unwrap_or(usize::MAX));
        let fail = |why: &str| Err(format!("{why}: {self:?} gave {shown:?} of {expected:?}"));
        if shown.len() != len {
            return fail("wrong number of rows");
        }
        if let Some(order) = self.order_of() {
            let key = |row: &Cells| order.iter().map(|i| row[*i].clone()).collect::<Cells>();
            let mut keys: Vec<Cells> = expected.iter().map(key).collect();
            keys.sort();
            if self.is_reversed {
                keys.reverse();
            }
            keys.truncate(len);
            if shown.iter().map(key).collect::<Vec<_>>() != keys {
                return fail("wrong order");
            }
        }
        for row in &shown {
            match expected.iter().position(|other| other == row) {
                Some(at) => expected.swap_remove(at),
                None => return Err(format!("a wrong row: {self:?} gave {shown:?}, {row:?} is not there")),
            };
        }
        Ok(())
    }
}

/// The rows of a collection or view in a reply.
pub fn shown_rows(answer: &Value) -> Option<Vec<Cells>> {
    let (class, content) = answer.as_object()?.iter().next()?;
    let rows = match class.as_str() {
        "/state/collection/btree" | "/state/collection/table" => content.as_array()?.get(1)?,
        _ => return None,
    };
    Some(rows.as_array()?.iter().map(cells).collect())
}

fn cells(row: &Value) -> Cells {
    row.as_array().expect("a row").iter().map(Cell::of).collect()
}

/// One thing that a transaction does.
#[derive(Clone, Debug)]
pub enum Step {
    /// The row with a key.
    Get(usize, Cells),
    Upsert(usize, Cells),
    /// Change the last column of the row with a key, if there is one.
    Update(usize, Cells, Cell),
    Delete(usize, Cells),
    /// Delete the keys of a BTree that a query names.
    DeleteRange(Query),
    /// Read the last column of the row with a key, or 0, and write it back with something added.
    Add(usize, Cells, i64),
    /// Rows, as they are when the transaction ends.
    List(Query),
    Count(Query),
    /// The sum of a column.
    Sum(Query, usize),
    /// Write what was counted into a row with a key.
    CountInto(Query, usize, Cells),
    /// Pass the time.
    Spin(usize),
    /// End in an error.
    Fail,
}

/// `call` after the entry of that name.
fn sequenced(before: &Option<String>, call: Value) -> Value {
    match before {
        Some(before) => after(named(before), call),
        None => call,
    }
}

fn named(name: &str) -> Value {
    json!({ format!("${name}"): [] })
}

fn json_of(cells: &[Cell]) -> Value {
    cells.iter().map(Cell::json).collect()
}

/// A row with this key that ends with a number.
fn counted_row(collection: usize, key: &[Cell], last: Value) -> Value {
    let declared = &COLLECTIONS[collection];
    let mut values: Vec<Value> = Vec::new();
    for column in key.len()..declared.columns.len() - 1 {
        values.push(if declared.is_text(column) { json!("counted") } else { json!(0) });
    }
    values.push(last);
    values.into()
}

impl Step {
    /// The entries of a context that do this after `before`; the last one is named `name`.
    fn entries(&self, name: &str, before: &Option<String>) -> Vec<Value> {
        let part = |part: &str| format!("{name}_{part}");
        let entry = |name: &str, call: Value| json!([name, sequenced(before, call)]);
        let path = |collection: &usize| COLLECTIONS[*collection].path;
        match self {
            Step::Get(i, key) => vec![entry(name, json!({ path(i): [json_of(key)] }))],
            Step::Upsert(i, row) => {
                let declared = &COLLECTIONS[*i];
                let (key, values) = row.split_at(declared.key_len);
                vec![entry(
                    name,
                    match declared.is_table {
                        true => json!({ declared.path: [json_of(key), json_of(values)] }),
                        false => json!({ declared.path: [null, json_of(row)] }),
                    },
                )]
            }
            Step::Update(i, key, value) => {
                let column = COLLECTIONS[*i].columns.last().expect("columns");
                vec![entry(name, json!({ path(i): [json_of(key), { *column: value.json() }] }))]
            }
            Step::Delete(i, key) => {
                vec![entry(name, json!({ "/state/scalar/ref/op/delete": [path(i), json_of(key)] }))]
            }
            Step::DeleteRange(query) => {
                let range = query.bounds_json();
                vec![entry(name, json!({ "/state/scalar/ref/op/delete": [query.declared().path, range] }))]
            }
            Step::Add(i, key, by) => {
                let last = COLLECTIONS[*i].columns.len() - 1;
                let (old, is_none, value, new) = (part("old"), part("is_none"), part("value"), part("new"));
                let row = counted_row(*i, key, named(&new));
                vec![
                    entry(&old, json!({ path(i): [json_of(key)] })),
                    json!([is_none, { format!("${old}/is_none"): [null] }]),
                    json!([value, choose(named(&is_none), json!(0), json!({ format!("${old}"): [last] }))]),
                    json!([new, { format!("${value}/add"): [by] }]),
                    json!([name, after(json!({ path(i): [json_of(key), row] }), named(&new))]),
                ]
            }
            Step::List(query) => query.entries(name, before),
            Step::Count(query) => {
                let mut entries = query.entries(&part("view"), before);
                entries.push(entry(name, json!({ format!("${}/count", part("view")): [null] })));
                entries
            }
            Step::Sum(query, column) => {
                let add = json!({ "/state/scalar/op/put": ["sum", "row", [
                    ["value", { "$row": [column] }],
                    ["_return", { "$sum/add": [named("value")] }],
                ]] });
                let rows = if query.declared().is_table { "rows" } else { "keys" };
                let mut entries = query.entries(&part("view"), before);
                entries.push(entry(&part("rows"), json!({ format!("${}/{rows}", part("view")): [null] })));
                let fold = json!({ format!("${}/fold", part("rows")): { "value": 0, "op": add } });
                entries.push(entry(name, fold));
                entries
            }
            Step::CountInto(query, i, key) => {
                let count = part("count");
                let mut entries = query.entries(&part("view"), before);
                entries.push(entry(&count, json!({ format!("${}/count", part("view")): [null] })));
                let row = counted_row(*i, key, named(&count));
                entries.push(json!([name, after(json!({ path(i): [json_of(key), row] }), named(&count))]));
                entries
            }
            Step::Spin(times) => vec![entry(name, spin_from(json!(times)))],
            Step::Fail => vec![entry(name, json!({ "/error/forbidden": ["after the work was done"] }))],
        }
    }

    /// The request that does this alone, if there is one.
    fn direct(&self) -> Option<Request> {
        let path = |collection: &usize| COLLECTIONS[*collection].path;
        Some(match self {
            Step::Get(i, key) => request(Verb::Get, path(i), json_of(key), Value::Null),
            Step::Upsert(i, row) if COLLECTIONS[*i].is_table => {
                let (key, values) = row.split_at(COLLECTIONS[*i].key_len);
                request(Verb::Put, path(i), json_of(key), json_of(values))
            }
            Step::Upsert(i, row) => request(Verb::Put, path(i), Value::Null, json_of(row)),
            Step::Update(i, key, value) => {
                let column = COLLECTIONS[*i].columns.last().expect("columns");
                request(Verb::Put, path(i), json_of(key), json!({ *column: value.json() }))
            }
            Step::Delete(i, key) => request(Verb::Delete, path(i), json_of(key), Value::Null),
            Step::List(query) if query.order.is_none() && query.limit.is_none() => {
                let declared = query.declared();
                match declared.is_table {
                    true if query.bounds.is_empty() => {
                        request(Verb::Get, declared.path, Value::Null, Value::Null)
                    }
                    true => post(declared.path, json!({ "bounds": query.bounds_json() })),
                    false => post(
                        declared.path,
                        json!({ "range": query.bounds_json(), "reverse": query.is_reversed }),
                    ),
                }
            }
            _ => return None,
        })
    }

    /// Do it alone; what must be answered, unless that is decided when the transaction ends.
    fn run(&self, model: &mut Model) -> Option<Value> {
        let put = |model: &mut Model, i: usize, row: Cells| {
            let key = row[..COLLECTIONS[i].key_len].to_vec();
            let rows = &mut model.0[i];
            if COLLECTIONS[i].is_table || !rows.contains_key(&key) {
                rows.insert(key, row);
            }
        };
        let counted = |i: usize, key: &Cells, last: i64| -> Cells {
            let values = counted_row(i, key, json!(last));
            key.iter().cloned().chain(cells(&values)).collect()
        };
        Some(match self {
            Step::Get(i, key) if COLLECTIONS[*i].is_table => {
                model.0[*i].get(key).map_or(Value::Null, |row| json_of(row))
            }
            Step::Get(..) | Step::List(_) => return None,
            Step::Upsert(i, row) => {
                put(model, *i, row.clone());
                Value::Null
            }
            Step::Update(i, key, value) => {
                if let Some(row) = model.0[*i].get_mut(key) {
                    *row.last_mut().expect("columns") = value.clone();
                }
                Value::Null
            }
            Step::Delete(i, key) => {
                if COLLECTIONS[*i].is_table {
                    model.0[*i].remove(key);
                } else {
                    model.0[*i].retain(|other, _| !other.starts_with(key));
                }
                Value::Null
            }
            Step::DeleteRange(query) => {
                for row in query.matching(model) {
                    model.0[query.collection].remove(&row);
                }
                Value::Null
            }
            Step::Add(i, key, by) => {
                let old = model.0[*i].get(key).map_or(0, |row| match row.last() {
                    Some(Cell::Int(number)) => *number,
                    other => panic!("not a number: {other:?}"),
                });
                put(model, *i, counted(*i, key, old + by));
                json!(old + by)
            }
            Step::Count(query) => json!(query.count(model)),
            Step::Sum(query, column) => {
                let number = |row: &Cells| match &row[*column] {
                    Cell::Int(number) => *number,
                    Cell::Text(_) => panic!("a text has no sum"),
                };
                json!(query.matching(model).iter().map(number).sum::<i64>())
            }
            Step::CountInto(query, i, key) => {
                let count = query.count(model);
                put(model, *i, counted(*i, key, count as i64));
                json!(count)
            }
            Step::Spin(_) | Step::Fail => Value::Null,
        })
    }

    /// Check what is read when the transaction ends.
    fn check_end(&self, model: &Model, answer: &Value) -> Result<(), String> {
        match self {
            Step::List(query) => query.check(model, answer),
            Step::Get(i, key) if !COLLECTIONS[*i].is_table => {
                let bounds = key.iter().cloned().map(Bound::Is).enumerate().collect();
                Query { bounds, ..Query::all(*i) }.check(model, answer)
            }
            _ => Ok(()),
        }
    }
}

/// What a client asks for in one request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Some steps, one after the other.
    Program(Vec<Step>),
    /// The same, leaving no trace.
    Hypothetical(Vec<Step>),
    /// One step, as a plain request.
    Direct(Step),
    /// Many rows at once, as they come from the edge.
    Bulk(usize, Vec<Cells>),
    /// The history of a chain: its number in [`HISTORIES`]; and whether that is hypothetical.
    History(usize, bool),
}

impl Action {
    pub fn is_hypothetical(&self) -> bool {
        matches!(self, Action::Hypothetical(_) | Action::History(_, true))
    }

    /// Whether this ends in an error, whatever else happens.
    pub fn fails(&self) -> bool {
        match self {
            Action::Program(steps) | Action::Hypothetical(steps) => {
                steps.iter().any(|step| matches!(step, Step::Fail))
            }
            Action::Direct(_) | Action::Bulk(..) | Action::History(..) => false,
        }
    }

    pub fn request(&self) -> Request {
        match self {
            Action::Program(steps) => post("/app/shop/run", json!({ "op": post_method(context(steps)) })),
            Action::Hypothetical(steps) => post("/transact/hypothetical", context(steps)),
            Action::Direct(step) => step.direct().expect("a step that can be asked for alone"),
            Action::Bulk(i, rows) => {
                let path = Path::parse(COLLECTIONS[*i].path).expect("a path");
                Request {
                    path,
                    body: COLLECTIONS[*i].bulk(rows, &Arc::default()),
                    ..request(Verb::Put, "/", Value::Null, Value::Null)
                }
            }
            Action::History(i, false) => {
                request(Verb::Get, &format!("{}/chain", HISTORIES[*i].0), Value::Null, Value::Null)
            }
            Action::History(i, true) => {
                let read = json!([["_return", { format!("{}/chain", HISTORIES[*i].0): [null] }]]);
                post("/transact/hypothetical", read)
            }
        }
    }

    /// Do it alone.
    pub fn run(&self, model: &mut Model) {
        let steps = match self {
            Action::Program(steps) => steps,
            Action::Direct(step) => std::slice::from_ref(step),
            Action::Bulk(i, rows) => {
                for row in rows {
                    Step::Upsert(*i, row.clone()).run(model);
                }
                return;
            }
            Action::Hypothetical(_) | Action::History(..) => return,
        };
        for step in steps {
            step.run(model);
        }
    }

    /// Do it alone, and compare what is answered.
    pub fn check(&self, model: &mut Model, answer: &Value) -> Result<(), String> {
        let (steps, answers): (&[Step], Vec<Value>) = match self {
            Action::Program(steps) | Action::Hypothetical(steps) => {
                (steps, answer.as_array().cloned().ok_or_else(|| format!("not a list: {answer}"))?)
            }
            Action::Direct(step) => (std::slice::from_ref(step), vec![answer.clone()]),
            Action::Bulk(..) => {
                self.run(model);
                return Ok(());
            }
            Action::History(i, _) => return check_history(*i, model, answer),
        };
        for (step, answer) in steps.iter().zip(&answers) {
            if let Some(expected) = step.run(model)
                && expected != *answer
                && !matches!(step, Step::Spin(_))
            {
                return Err(format!("{step:?} gave {answer}, not {expected}"));
            }
        }
        steps.iter().zip(&answers).try_for_each(|(step, answer)| step.check_end(model, answer))
    }
}

fn context(steps: &[Step]) -> Value {
    let mut entries = Vec::new();
    let mut before = None;
    for (i, step) in steps.iter().enumerate() {
        let name = format!("s{i}");
        entries.extend(step.entries(&name, &before));
        before = Some(name);
    }
    let results: Vec<Value> = (0..steps.len()).map(|i| named(&format!("s{i}"))).collect();
    entries.push(json!(["_return", results]));
    entries.into()
}

/// The blocks of a chain in a reply lead from nothing to what is in the model.
fn check_history(history: usize, model: &Model, answer: &Value) -> Result<(), String> {
    let (_, collections) = HISTORIES[history];
    let blocks = &answer["/state/chain/block"][1];
    let mut replayed = Model::default();
    for mutations in blocks.as_array().expect("blocks").iter().flat_map(|block| {
        block[1].as_object().expect("transactions").values().flat_map(|all| all.as_array().expect("a list"))
    }) {
        let slot: usize = match mutations[0].as_str().expect("a path").trim_start_matches('/') {
            "" => 0,
            slot => slot.parse().expect("a slot"),
        };
        step_of(collections[slot], mutations).run(&mut replayed);
    }
    for i in collections {
        if replayed.0[*i] != model.0[*i] {
            return Err(format!(
                "the history of {} leads to {:?}, not to {:?}",
                COLLECTIONS[*i].path, replayed.0[*i], model.0[*i]
            ));
        }
    }
    Ok(())
}

/// What a mutation of a history does.
fn step_of(collection: usize, mutation: &Value) -> Step {
    let parts = mutation.as_array().expect("a mutation");
    let declared = &COLLECTIONS[collection];
    let key = |key: &Value| match key {
        Value::Null => Vec::new(),
        key => cells(key),
    };
    match &parts[1..] {
        [at] => match at.as_array().is_some_and(|parts| parts.iter().any(Value::is_array)) {
            true => {
                let bounds = at.as_array().expect("a range").iter().map(bound_of).enumerate().collect();
                Step::DeleteRange(Query { bounds, ..Query::all(collection) })
            }
            false => Step::Delete(collection, key(at)),
        },
        [at, Value::Object(changes)] => {
            let value = changes.values().next().expect("a change");
            Step::Update(collection, key(at), Cell::of(value))
        }
        [at, values] if declared.is_table => {
            Step::Upsert(collection, key(at).into_iter().chain(cells(values)).collect())
        }
        [_, row] => Step::Upsert(collection, cells(row)),
        _ => panic!("not a mutation: {mutation}"),
    }
}

fn bound_of(json: &Value) -> Bound {
    let Value::Array(ends) = json else { return Bound::Is(Cell::of(json)) };
    let end = |end: &Value| match &end[1] {
        Value::Null => None,
        cell => Some((Cell::of(cell), end[0] == "in")),
    };
    Bound::Within(Interval { from: end(&ends[0]), to: end(&ends[1]) })
}

/// What is in the collections: rows by key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Model(pub Vec<BTreeMap<Cells, Cells>>);

impl Default for Model {
    fn default() -> Self {
        Self(vec![BTreeMap::new(); COLLECTIONS.len()])
    }
}

/// Everything, in one transaction: all rows, what each index has, and how many there are.
pub fn everything() -> Action {
    let mut steps = Vec::new();
    for (i, declared) in COLLECTIONS.iter().enumerate() {
        steps.push(Step::Count(Query::all(i)));
        steps.push(Step::List(Query::all(i)));
        for columns in declared.indices {
            steps.push(Step::List(Query { order: Some(columns.to_vec()), ..Query::all(i) }));
            // Through the index, and counted there.
            let least = if declared.is_text(columns[0]) { Cell::Text(String::new()) } else { Cell::Int(-1) };
            let bounds = vec![(columns[0], Bound::Within(Interval { from: Some((least, true)), to: None }))];
            steps.push(Step::Count(Query { bounds: bounds.clone(), ..Query::all(i) }));
            steps.push(Step::List(Query { bounds, ..Query::all(i) }));
        }
    }
    Action::Program(steps)
}

/// The rows in the answer to [`everything`], which must be the same in whatever way they were read.
pub fn everything_shown(answer: &Value) -> Result<Model, String> {
    let Action::Program(steps) = everything() else { unreachable!() };
    let answers = answer.as_array().ok_or_else(|| format!("not a list: {answer}"))?;
    let mut model = Model::default();
    for (step, answer) in steps.iter().zip(answers) {
        if let Step::List(query) = step
            && query.bounds.is_empty()
            && query.order.is_none()
        {
            let key_len = COLLECTIONS[query.collection].key_len;
            let rows = shown_rows(answer).ok_or_else(|| format!("not rows: {answer}"))?;
            model.0[query.collection] = rows.into_iter().map(|row| (row[..key_len].to_vec(), row)).collect();
        }
    }
    everything().check(&mut model.clone(), answer).map(|()| model)
}

/// How many different values the columns have.
const WORDS: [&str; 5] = ["blue", "green", "ochre", "red", "teal"];
const KEYS: usize = 40;
const NUMBERS: usize = 6;

fn cell(random: &mut Random, collection: usize, column: usize) -> Cell {
    let declared = &COLLECTIONS[collection];
    if declared.is_text(column) {
        return Cell::Text(random.choose(&WORDS).to_string());
    }
    let is_key = declared.is_table && column < declared.key_len;
    Cell::Int(random.below(if is_key { KEYS } else { NUMBERS }) as i64)
}

fn row(random: &mut Random, collection: usize) -> Cells {
    (0..COLLECTIONS[collection].columns.len()).map(|column| cell(random, collection, column)).collect()
}

fn key(random: &mut Random, collection: usize) -> Cells {
    (0..COLLECTIONS[collection].key_len).map(|column| cell(random, collection, column)).collect()
}

fn interval(random: &mut Random, collection: usize, column: usize) -> Bound {
    let mut end = || (!random.one_in(4)).then(|| (cell(random, collection, column), random.one_in(2)));
    let (mut from, mut to) = (end(), end());
    if from.is_none() && to.is_none() {
        from = Some((cell(random, collection, column), true));
    }
    if let (Some((from, _)), Some((to, _))) = (&mut from, &mut to)
        && from > to
    {
        std::mem::swap(from, to);
    }
    Bound::Within(Interval { from, to })
}

fn query(random: &mut Random, collection: usize) -> Query {
    let declared = &COLLECTIONS[collection];
    let mut query = Query { is_reversed: random.one_in(3), ..Query::all(collection) };
    if !declared.is_table {
        match random.below(5) {
            0 => {}
            1 => query.bounds.push((0, Bound::Is(cell(random, collection, 0)))),
            2 => query.bounds.push((0, interval(random, collection, 0))),
            _ => {
                query.bounds.push((0, Bound::Is(cell(random, collection, 0))));
                query.bounds.push((1, interval(random, collection, 1)));
            }
        }
        return query;
    }
    for column in 0..declared.columns.len() {
        match random.below(5) {
            0 => query.bounds.push((column, Bound::Is(cell(random, collection, column)))),
            1 => query.bounds.push((column, interval(random, collection, column))),
            _ => {}
        }
    }
    if random.one_in(3) {
        let mut order = match random.below(3) {
            0 => (0..declared.key_len).collect(),
            1 => random.choose(declared.indices).to_vec(),
            _ => vec![random.below(declared.columns.len())],
        };
        if random.one_in(2) && !declared.is_full_key(&order) {
            let rest: Vec<usize> = (0..declared.key_len).filter(|column| !order.contains(column)).collect();
            order.extend(rest);
        }
        query.order = Some(order);
    }
    query.is_reversed &= query.order.is_some();
    if random.one_in(4) {
        query.limit = Some(random.below(6));
    }
    query
}

fn any_collection(random: &mut Random) -> usize {
    // One of them is hot.
    if random.one_in(3) { 0 } else { random.below(COLLECTIONS.len()) }
}

/// One whose last column is a number.
fn numbered(random: &mut Random) -> usize {
    *random.choose(&[0, 0, 1, 5])
}

fn write(random: &mut Random) -> Step {
    let i = any_collection(random);
    match random.below(10) {
        0..=3 => Step::Upsert(i, row(random, i)),
        4 | 5 if COLLECTIONS[i].is_table => {
            let value = cell(random, i, COLLECTIONS[i].columns.len() - 1);
            Step::Update(i, key(random, i), value)
        }
        4 | 5 => {
            let mut doomed = query(random, i);
            doomed.is_reversed = false;
            if doomed.bounds.is_empty() { Step::Upsert(i, row(random, i)) } else { Step::DeleteRange(doomed) }
        }
        6 | 7 => Step::Delete(i, key(random, i)),
        _ => {
            let i = numbered(random);
            Step::Add(i, key(random, i), 1 + random.below(3) as i64)
        }
    }
}

fn read(random: &mut Random) -> Step {
    let i = any_collection(random);
    match random.below(6) {
        0 | 1 => Step::Get(i, key(random, i)),
        2 => Step::List(query(random, i)),
        3 | 4 => Step::Count(query(random, i)),
        _ => {
            let i = numbered(random);
            // Which rows are the first ones may be left open, and so is their sum then.
            let query = Query { limit: None, ..query(random, i) };
            Step::Sum(query, COLLECTIONS[i].columns.len() - 1)
        }
    }
}

fn step(random: &mut Random) -> Step {
    match random.below(8) {
        0..=2 => write(random),
        3..=5 => read(random),
        6 => {
            let (from, to) = (any_collection(random), numbered(random));
            Step::CountInto(query(random, from), to, key(random, to))
        }
        _ => Step::Spin(random.below(20)),
    }
}

/// A few random steps.
pub fn steps(random: &mut Random) -> Vec<Step> {
    (0..1 + random.below(5)).map(|_| step(random)).collect()
}

fn bulk(random: &mut Random) -> Action {
    let i = any_collection(random);
    Action::Bulk(i, (0..random.below(30)).map(|_| row(random, i)).collect())
}

/// A load of rows for which there is enough space, but not for the entries of the indices.
pub fn load_without_space() -> Request {
    let rows: Vec<Cells> =
        (0..301).map(|i| vec![Cell::Int(i), Cell::Text(format!("c{}", i % 7)), Cell::Int(i % 5)]).collect();
    let scratch = Arc::default();
    let body = COLLECTIONS[0].bulk(&rows, &scratch);
    scratch.fill();
    Request { body, ..Action::Bulk(0, rows).request() }
}

/// A random request.
pub fn action(random: &mut Random) -> Action {
    match random.below(17) {
        16 => bulk(random),
        0..=6 => Action::Program(steps(random)),
        7 => {
            let mut steps = steps(random);
            steps.push(Step::Fail);
            Action::Program(steps)
        }
        8 | 9 => Action::Hypothetical(steps(random)),
        10 => Action::History(random.below(HISTORIES.len()), random.one_in(2)),
        _ => {
            let step = if random.one_in(2) { write(random) } else { read(random) };
            if step.direct().is_some() { Action::Direct(step) } else { Action::Program(vec![step]) }
        }
    }
}

/// How many rows that lie beside one another one transaction deletes at most.
const SWEPT_ROWS_MAX: usize = 25;

/// Delete rows that lie beside one another.
fn sweep(random: &mut Random) -> Action {
    let i = any_collection(random);
    let first = key(random, i);
    if !COLLECTIONS[i].is_table {
        let bounds = vec![(0, Bound::Is(first[0].clone()))];
        return Action::Program(vec![Step::DeleteRange(Query { bounds, ..Query::all(i) })]);
    }
    let Some(Cell::Int(start)) = first.last() else { unreachable!("keys end with a number") };
    let delete = |number: i64| {
        let mut key = first.clone();
        *key.last_mut().expect("a key") = Cell::Int(number);
        Step::Delete(i, key)
    };
    Action::Program((*start..start + 1 + random.below(SWEPT_ROWS_MAX) as i64).map(delete).collect())
}

/// A random request of those that leave pages with few rows.
pub fn emptying_action(random: &mut Random) -> Action {
    match random.below(5) {
        0 | 1 => sweep(random),
        2 => bulk(random),
        _ => action(random),
    }
}

/// The same, without reads.
pub fn emptying_write(random: &mut Random) -> Action {
    if random.one_in(2) { sweep(random) } else { writing_action(random) }
}

/// A random request that writes.
pub fn writing_action(random: &mut Random) -> Action {
    if random.one_in(12) {
        return bulk(random);
    }
    let step = write(random);
    match step.direct() {
        Some(_) if random.one_in(2) => Action::Direct(step),
        _ => Action::Program((0..random.below(3)).map(|_| write(random)).chain([step]).collect()),
    }
}
