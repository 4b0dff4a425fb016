//! Bodies that are many rows of one hosted collection, decoded into columns before they reach the world.
//!
//! A PUT without a key, at the path of the collection itself, takes an Arrow IPC stream, CSV, or a JSON list of rows.

mod arriving;
mod arrow;
mod csv;
mod json;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use components::hosting::cluster::{Catalog, Member};
use components::language::chain::ChainKind;
use components::language::collection::value_of;
use components::language::reference::Verb;
use components::rows::Row;
use components::rows::bulk::Bulk;
use components::rows::coerce::{btree_row, table_row};
use components::rows::columns::Columns;
use components::rows::schema::{CollectionKind, Schema};
use components::{Error, Id, Path, Result, State, Value};
use tokio::sync::mpsc::Receiver;

pub(super) use self::arriving::{Piece, Turn};
pub use self::arrow::arrow;
pub use self::csv::csv;
pub use self::json::json;

use self::arriving::{Arriving, Gathered};
use super::budget::Charge;
use super::media::MEDIA_TYPES;
use super::request::{Head, MediaType, check_signature, guarded};
use crate::workspace::Workspace;

/// The memory of one row while rows are sorted, in bytes.
const SORTED_ROW_BYTES: usize = 24;

/// How much memory may be taken before it is charged, in bytes.
const UNCHARGED_BYTES_MAX: usize = 64 * 1024;

/// How rows are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Arrow,
    Csv,
    Json,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Csv => "text/csv",
            Self::Json => "application/json",
        }
    }
}

/// The rows that a body is expected to hold.
pub(super) struct Expected {
    form: Form,
    schema: Arc<Schema>,
    /// Whether the history of the chain records each of them.
    is_recorded: bool,
}

/// The rows that the body of a request holds by its head; none if it is any other body, or JSON: then see
/// [`expected_json`].
///
/// # Errors
/// 415 if the body is of a type that only rows have, and the request does not write rows.
pub(super) fn expected(catalog: &Catalog, media_type: MediaType, head: &Head) -> Result<Option<Expected>> {
    let form = match media_type {
        MediaType::Json | MediaType::Tbon => return Ok(None),
        MediaType::Arrow => Form::Arrow,
        MediaType::Csv => Form::Csv,
    };
    match rows_at(catalog, head, form) {
        Some(expected) => Ok(Some(expected)),
        None => Err(refused(form, head)),
    }
}

/// The rows that a JSON body holds, if it may hold rows: a list that is put without a key into a hosted collection.
pub(super) fn expected_json(catalog: &Catalog, head: &Head, body: &[u8]) -> Option<Expected> {
    let is_list = || body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if head.verb != Verb::Put || !head.key.is_none() || !is_list() {
        return None;
    }
    rows_at(catalog, head, Form::Json).filter(|expected| expected.schema.reads_lists_as_rows())
}

/// What rows are that may come as a state: what [`expected_json`] is for JSON.
pub(super) fn expected_state(catalog: &Catalog, head: &Head) -> Option<Arc<Schema>> {
    let Expected { schema, .. } = rows_at(catalog, head, Form::Json)?;
    schema.reads_lists_as_rows().then_some(schema)
}

/// A list of rows that came as a state, as rows.
///
/// # Errors
/// 400 if a row cannot be written, which names it.
pub(super) fn rows_of_state(schema: Arc<Schema>, body: State) -> Result<State> {
    let rows = |items: &[State]| -> Option<Vec<Row>> {
        let row = |item: &State| match value_of(item) {
            Ok(Value::Tuple(values)) => Some(values),
            _ => None,
        };
        items.iter().map(row).collect()
    };
    let Some(rows) = body.to_tuple().and_then(|items| rows(&items)).filter(|rows| !rows.is_empty()) else {
        return Ok(body);
    };
    let coerced = rows.iter().enumerate().map(|(i, row)| {
        let row = match schema.kind() {
            CollectionKind::BTree => btree_row(&schema, row),
            CollectionKind::Table => table_row(&schema, row),
        };
        row.map_err(|cause| cause.context(format_args!("row {}", i + 1)))
    });
    let rows = coerced.collect::<Result<Vec<Row>>>()?;
    let columns = Columns::from_rows(&schema.layouts()[0].types, rows.iter().map(|row| &row[..]));
    Ok(State::Bulk(Arc::new(Bulk::new(schema, columns))))
}

/// Whether a request puts rows into a collection whose history records each of them.
pub(super) fn is_recorded(catalog: &Catalog, head: &Head) -> bool {
    rows_at(catalog, head, Form::Json).is_some_and(|expected| expected.is_recorded)
}

fn rows_at(catalog: &Catalog, head: &Head, form: Form) -> Option<Expected> {
    if head.verb != Verb::Put || !head.key.is_none() {
        return None;
    }
    let (schema, is_recorded) = collection(catalog, head.path.segments())?;
    Some(Expected { form, schema, is_recorded })
}

fn refused(form: Form, head: &Head) -> Error {
    let (content_type, path): (_, &Path) = (form.content_type(), &head.path);
    let why = match (head.verb, head.key.is_none()) {
        (Verb::Put, true) => format!("{path} is not a hosted collection"),
        (Verb::Put, false) => "this PUT has a key".to_string(),
        _ => "this is no PUT".to_string(),
    };
    Error::unsupported_media_type(format_args!(
        "a body of the type {content_type} is rows, for a PUT without a key into a hosted collection, but {why}. \
         Of {MEDIA_TYPES} only application/json and application/tbon are understood here"
    ))
}

/// The schema of the hosted collection at a path, and whether a history records what happens to it.
fn collection(catalog: &Catalog, path: &[Id]) -> Option<(Arc<Schema>, bool)> {
    let (_, cluster, rest) = catalog.find(path)?;
    let (name, rest) = rest.split_first()?;
    let Member::Chain(id) = cluster.members.get(name)? else { return None };
    let spec = catalog.chains.get(id)?;
    let schema = match (&spec.schema, rest) {
        (State::Collection(collection), []) => Some(collection.schema.clone()),
        (State::Tuple(items), [place]) => {
            let schemas = spec.collections();
            let place: usize = place.as_str().parse().ok()?;
            // A tuple with anything else in it is a value.
            schemas.get(place).filter(|_| schemas.len() == items.len()).cloned()
        }
        _ => None,
    };
    Some((schema?, spec.kind == ChainKind::Block))
}

impl Expected {
    /// Whether the rows need not be in memory all at once.
    pub(super) fn is_unbounded(&self) -> bool {
        self.form != Form::Json && !self.is_recorded
    }

    /// Decode a body while it arrives: one that begins with `first` and goes on with `pieces`, when it is its turn. Rows that
    /// do not fit in memory go to the workspace. One message of Arrow, or row of CSV, has at most `piece_bytes_max`.
    ///
    /// # Errors
    /// As [`Self::decode`]; 400 if the pieces end before the body does; 503 if the workspace takes no more.
    pub(super) fn decode_arriving(
        self,
        first: Vec<u8>,
        (pieces, turn): (Receiver<Piece>, Option<Turn>),
        workspace: &Workspace,
        piece_bytes_max: usize,
        (charge, held): (&mut Charge, &mut Charge),
    ) -> Result<State> {
        let Self { form, schema, .. } = self;
        let decoded = guarded(|| {
            check_signature(&first)?;
            let mut arriving = Arriving::new(first, pieces, turn);
            let mut gathered = Gathered::new(schema.clone(), workspace, charge);
            match form {
                Form::Arrow => {
                    arrow::arrow_arriving(&schema, &mut arriving, piece_bytes_max, &mut gathered, held)?
                }
                Form::Csv => csv::csv_arriving(&schema, arriving, piece_bytes_max, &mut gathered)?,
                Form::Json => unreachable!("JSON is decoded as a whole"),
            }
            Ok(State::Bulk(Arc::new(gathered.finish()?)))
        });
        decoded.map_err(|error: Error| error.context("in the body"))
    }

    /// Whether a body of so few bytes may become rows of many.
    pub(super) fn size_bytes(&self, body_bytes: usize) -> usize {
        if self.form == Form::Arrow { usize::MAX } else { body_bytes }
    }

    /// Decode a body into rows, sorted by key; gives it back if it turns out to be an ordinary one.
    ///
    /// # Errors
    /// 400 that names the row, counted from 1, and the column; 413 or 503 if the rows take too much memory.
    pub(super) fn decode(
        self,
        bytes: Vec<u8>,
        charge: &mut Charge,
    ) -> Result<std::result::Result<State, Vec<u8>>> {
        let Self { form, schema, .. } = self;
        let decoded = guarded(|| {
            check_signature(&bytes)?;
            let mut take = |bytes: usize| charge.add(bytes);
            let rows = match form {
                Form::Arrow => arrow(&schema, bytes, &mut take)?,
                Form::Csv => csv(&schema, &bytes, &mut take)?,
                Form::Json => match json(&schema, &bytes, &mut take)? {
                    Some(rows) => rows,
                    None => return Ok(Err(bytes)),
                },
            };
            take(rows.bytes().saturating_add(rows.len().saturating_mul(SORTED_ROW_BYTES)))?;
            Ok(Ok(State::Bulk(Arc::new(Bulk::new(schema, rows)))))
        });
        decoded.map_err(|error: Error| error.context("in the body"))
    }
}

/// Which column of a schema each name means: all of them are there, once each, in any order.
///
/// # Errors
/// 400 that names a column that is missing, repeated or unknown.
fn positions<'a>(schema: &Schema, names: impl Iterator<Item = &'a str>) -> Result<Vec<usize>> {
    let mut is_there = vec![false; schema.columns().len()];
    let mut positions = Vec::with_capacity(is_there.len());
    let mut unknown = None;
    for name in names {
        match schema.position(name) {
            Some(position) if is_there[position] => {
                return Err(Error::bad_request(format_args!("the column {name} occurs twice")));
            }
            Some(position) => {
                is_there[position] = true;
                positions.push(position);
            }
            None => unknown = unknown.or(Some(name)),
        }
    }
    let missing = schema.columns().iter().zip(is_there).find(|(_, is_there)| !is_there);
    match (missing.map(|(column, _)| &column.name), unknown) {
        (None, None) => Ok(positions),
        (Some(missing), None) => Err(Error::bad_request(format_args!("the column {missing} is missing"))),
        (None, Some(unknown)) => {
            Err(Error::bad_request(format_args!("there is no column {unknown:?} in this {}", kind(schema))))
        }
        (Some(missing), Some(unknown)) => Err(Error::bad_request(format_args!(
            "the column {missing} is missing, and there is no column {unknown:?} in this {}",
            kind(schema)
        ))),
    }
}

fn kind(schema: &Schema) -> &'static str {
    match schema.kind() {
        CollectionKind::BTree => "BTree",
        CollectionKind::Table => "table",
    }
}
