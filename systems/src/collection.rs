//! Collections in programs: how they are made, filled and shown (protocol page 02 §1.4, §7).

mod access;
mod btree;
mod hosted;
mod plan;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use components::language::cast;
use components::language::chain::{Chain, ChainContent};
use components::language::class::Instance;
use components::language::collection::local::LocalCollection;
use components::language::collection::snapshot::{RowsetSnapshot, Scan, Trees};
use components::language::collection::stream::StreamSource;
use components::language::collection::view::Rowset;
use components::language::collection::{Collection, CollectionContent, Source, value_of};
use components::language::memory::Reservation;
use components::rows::bulk::{Bulk, BulkRows};
use components::rows::coerce::{btree_row, table_row};
use components::rows::key::Key;
use components::rows::schema::{CollectionKind, Schema};
use components::rows::{Row, row_bytes};
use components::value::limits::STATE_BYTES_MAX;
use components::value::native::NativeClass;
use components::{Error, Id, Map, Path, Result, State, Value};

use view::single_scan;

use crate::chain::shown_local_chain;
use crate::futures::BoxFuture;
use crate::scalar::{Call, Interpreter, common, deeper, define_class, no_member, parameter, parameters};

/// How many rows a reply has at most that are read in the transaction, if that can be told before.
const LITTLE_ROWS_MAX: u64 = 256;

/// The constructor that fills a new collection from another one.
const COPY_FROM: &str = "copy_from";

/// The kind of collection whose class a path leads to, and what is left of the path.
pub(crate) fn class_of(path: &[Id]) -> Option<(CollectionKind, &[Id])> {
    let (class, rest) = path.split_at_checked(3)?;
    let class = NativeClass::from_path(&Path::from(class).to_string())?;
    Some((CollectionKind::from_class(class)?, rest))
}

/// How much of a row a message quotes, in bytes.
const QUOTED_ROW_BYTES_MAX: usize = 200;

/// An error in a row that is written alone, with the values that say which it is.
fn in_row(cause: &Error, values: &[Value]) -> Error {
    let row = Value::Tuple(values.into()).to_string();
    match row.len() <= QUOTED_ROW_BYTES_MAX {
        true => cause.clone().context(format_args!("the row {row}")),
        false => {
            let quoted = &row[..row.floor_char_boundary(QUOTED_ROW_BYTES_MAX)];
            cause.clone().context(format_args!("the row {quoted}…"))
        }
    }
}

impl Interpreter {
    /// Call the class of a kind of collection.
    pub(crate) async fn route_collection_class(
        &self,
        kind: CollectionKind,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let class = kind.class();
        match (path, call) {
            ([], Call::Either) => Ok(class.link().into()),
            ([], Call::Get(schema)) => Ok(State::Collection(self.empty(kind, &schema)?)),
            ([], Call::Post(prototype)) => define_class(Some(class.link()), prototype),
            ([], call) => Err(call.not_allowed(class.path())),
            ([name], call) if name.as_str() == COPY_FROM => {
                let parameters = parameters(name, call)?;
                let schema = parameter(&parameters, name, "schema")?;
                let source = parameter(&parameters, name, "source")?;
                check_parameters(&parameters, name, &["schema", "source"])?;
                let collection = self.empty(kind, schema)?;
                self.copy(&collection, source, depth).await?;
                Ok(State::Collection(collection))
            }
            (path, _) => {
                Err(Error::not_found(format_args!("a {} has nothing at {}", class.path(), Path::from(path))))
            }
        }
    }

    /// A new collection without rows.
    fn empty(&self, kind: CollectionKind, schema: &State) -> Result<Collection> {
        let schema = Arc::new(Schema::declared(kind, schema)?);
        let rows = LocalCollection::new(schema.clone(), self.ledger.clone());
        Ok(Collection { schema, source: Source::Local(Arc::new(rows)) })
    }

    /// The collection that the data of an instance of a class of collections is: itself, or its schema.
    pub(crate) fn collection_of(&self, kind: CollectionKind, data: State) -> Result<State> {
        match Rowset::of(&data) {
            Some(rows) if rows.kind() == kind => Ok(data),
            Some(_) => Err(Error::bad_request(format_args!("this is not a {}", kind.class().path()))),
            None => self.empty(kind, &data).map(State::Collection),
        }
    }

    /// Write what is put into a table without a key: a list of rows, or a table.
    async fn insert_rows(&self, collection: &Collection, rows: &State, depth: u32) -> Result<()> {
        let kind = match (Rowset::of(rows), rows) {
            (Some(source), _) => Some(source.kind()),
            (None, State::Content(content)) => Some(content.schema.kind()),
            (None, _) => None,
        };
        if kind.is_some_and(|kind| kind == collection.schema.kind()) {
            return self.copy(collection, rows, depth).await;
        }
        let not_rows = || {
            Error::bad_request(format_args!(
                "what is put without a key is a list of rows, each a list of the values of all columns, not {}",
                cast::describe(rows)
            ))
        };
        let items = rows.to_tuple().ok_or_else(not_rows)?;
        if !items.iter().all(|row| row.to_tuple().is_some()) {
            return Err(not_rows());
        }
        self.step(items.len()).await;
        for (i, row) in items.iter().enumerate() {
            let inserted = match value_of(row) {
                Ok(row) => self.insert(collection, &row).await,
                Err(cause) => Err(cause),
            };
            // Counted as the edge counts them.
            inserted.map_err(|cause| cause.context(format_args!("row {}", i + 1)))?;
        }
        Ok(())
    }

    /// A new collection of these rows.
    pub(crate) async fn load(&self, kind: CollectionKind, schema: &State, rows: &State) -> Result<State> {
        let collection = self.empty(kind, schema)?;
        if !rows.is_none() {
            let rows = rows.to_tuple().ok_or_else(|| {
                Error::bad_request(format_args!("the rows are a list, not {}", cast::describe(rows)))
            })?;
            self.step(rows.len()).await;
            for (i, row) in rows.iter().enumerate() {
                let loaded = match value_of(row) {
                    Ok(row) => self.insert(&collection, &row).await,
                    Err(cause) => Err(cause),
                };
                loaded.map_err(|cause| cause.context(format_args!("row {}", i + 1)))?;
            }
        }
        Ok(State::Collection(collection))
    }

    /// Write a row; in a table it takes the place of the one with its key.
    async fn insert(&self, collection: &Collection, row: &Value) -> Result<()> {
        let Value::Tuple(values) = row else {
            return Err(Error::bad_request(format_args!("a row is a list of values, not {row}")));
        };
        let row = match collection.schema.kind() {
            CollectionKind::BTree => btree_row(&collection.schema, values)?,
            CollectionKind::Table => table_row(&collection.schema, values)?,
        };
        let key = Key::of_row(&collection.schema.layouts()[0], &row);
        self.write(collection, &key, Some(row)).await
    }

    /// Write all rows of a collection, or items of a stream.
    pub(crate) async fn copy(&self, collection: &Collection, source: &State, depth: u32) -> Result<()> {
        if let Some(source) = Rowset::of(source) {
            let mut rows = self.open_rows(&source).await?;
            let mut copied = 0_u64;
            while let Some(chunk) = self.next_rows(&mut rows).await? {
                for row in chunk {
                    copied += 1;
                    let inserted = self.insert(collection, &Value::Tuple(row)).await;
                    inserted.map_err(|cause| cause.context(format_args!("row {copied}")))?;
                }
            }
            return Ok(());
        }
        if let State::Content(content) = source {
            for (i, row) in content.rows.iter().enumerate() {
                let inserted = self.insert(collection, &Value::Tuple(row.clone())).await;
                inserted.map_err(|cause| cause.context(format_args!("row {}", i + 1)))?;
            }
            return Ok(());
        }
        let State::Stream(stream) = source else {
            return Err(Error::bad_request(format_args!(
                "what is copied is a collection or a stream, not {}",
                cast::describe(source)
            )));
        };
        let mut items = self.open_items(stream).await?;
        let mut copied = 0_u64;
        while let Some(item) = self.next_item(&mut items, depth).await? {
            copied += 1;
            let inserted = match value_of(&item) {
                Ok(row) => self.insert(collection, &row).await,
                Err(cause) => Err(cause),
            };
            inserted.map_err(|cause| cause.context(format_args!("row {copied}")))?;
        }
        Ok(())
    }

    /// Call a collection or a view of one.
    pub(crate) async fn route_collection(
        &self,
        subject: &State,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let rows = Rowset::of(subject).expect("a collection or view");
        let method = match path {
            [] => None,
            [name] if !matches!(name.as_str(), "class" | "is_none") => Some(name),
            [_] => return common(subject, path, call),
            _ => return Err(no_member(subject, path)),
        };
        match (rows.kind(), method) {
            (CollectionKind::BTree, Some(name)) => self.btree_method(&rows, name, call).await,
            (CollectionKind::Table, Some(name)) => self.table_method(&rows, name, call).await,
            (_, None) => match &rows {
                Rowset::Collection(collection) if matches!(call, Call::Put(..) | Call::Delete(_)) => {
                    self.write_collection(collection, call, depth).await
                }
                rows => self.call_rows(rows, call, depth).await,
            },
        }
    }

    /// Call a collection or a view of one itself; nothing is recorded of it.
    pub(crate) async fn call_rows(&self, rows: &Rowset, call: Call, depth: u32) -> Result<State> {
        if let Call::Put(key, State::Bulk(bulk)) = &call {
            return self.put_bulk(&rows.to_state(), key, bulk).await;
        }
        match rows.kind() {
            CollectionKind::BTree => self.call_btree(rows, call, depth).await,
            CollectionKind::Table => self.call_table(rows, call, depth).await,
        }
    }

    /// Write many rows at once, as they come from the edge: into the hosted collection that they were checked for.
    async fn put_bulk(&self, subject: &State, key: &State, bulk: &Arc<Bulk>) -> Result<State> {
        match subject {
            State::Collection(Collection { schema, source: Source::Hosted(hosted) })
                if key.is_none() && schema == bulk.schema() =>
            {
                match bulk.rows() {
                    // Without rows there is nothing to merge, nor a page that a commit could wait for.
                    _ if bulk.is_empty() => {}
                    BulkRows::Resident(rows) if rows.len() < self.jobs.merged_rows_min => {
                        self.write_hosted_rows(*hosted, bulk, rows).await?;
                    }
                    _ => self.merge_hosted_rows(*hosted, bulk).await?,
                }
                Ok(State::NONE)
            }
            _ => Err(Error::bad_request("rows can only be put into a hosted collection, without a key")),
        }
    }

    /// A state with everything in it that is read only now: collections, views and streams.
    pub(crate) async fn materialized(&self, state: State) -> Result<State> {
        if !state.is_lazy() {
            return Ok(state);
        }
        let mut memory = Reservation::new(self.ledger.clone());
        self.materialize(state, &mut memory, 0).await
    }

    fn materialize<'a>(
        &'a self,
        state: State,
        memory: &'a mut Reservation,
        depth: u32,
    ) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            if let State::Collection(_) | State::View(_) = &state {
                let source = Rowset::of(&state).expect("a collection or view");
                return self.shown_rows(&source, false, memory).await;
            }
            if let State::Stream(stream) = &state
                && let StreamSource::Rows(source) = stream.source()
            {
                return self.shown_rows(source, true, memory).await;
            }
            if !state.is_lazy() {
                return Ok(state);
            }
            // An op that makes an item may come to a stream, and so on without end.
            let depth = deeper(depth)?;
            let shown = match state {
                State::Tuple(items) => {
                    let mut shown = Vec::with_capacity(items.len());
                    for item in items.iter() {
                        shown.push(self.materialize(item.clone(), memory, depth).await?);
                    }
                    State::tuple(shown)
                }
                State::Map(items) => {
                    let mut shown = BTreeMap::new();
                    for (name, item) in items.iter() {
                        shown.insert(name.clone(), self.materialize(item.clone(), memory, depth).await?);
                    }
                    State::map(shown)
                }
                State::Instance(instance) => {
                    let data = self.materialize(instance.data().clone(), memory, depth).await?;
                    Instance::new(instance.class().clone(), data)
                        .map(|shown| State::Instance(Arc::new(shown)))
                }
                State::Stream(stream) => {
                    let mut shown = Vec::new();
                    let mut items = self.open_items(&stream).await?;
                    while let Some(item) = self.next_item(&mut items, depth).await? {
                        hold(memory, item.bytes())?;
                        shown.push(self.materialize(item, memory, depth).await?);
                    }
                    State::tuple(shown)
                }
                State::Chain(Chain::Local(local)) => {
                    let subject = self.materialize(local.subject(), memory, depth).await?;
                    return Ok(shown_local_chain(&local, subject));
                }
                State::Chain(Chain::Content(content)) => {
                    let subject = self.materialize(content.subject.clone(), memory, depth).await?;
                    let shown = ChainContent { subject, ..(*content).clone() };
                    return Ok(State::Chain(Chain::Content(Arc::new(shown))));
                }
                other => Ok(other),
            };
            shown.map_err(|_| too_large())
        })
    }

    /// The rows that a reply shows: those of a small result, else a snapshot that is read while it is sent, if one scan
    /// finds them.
    async fn shown_rows(&self, source: &Rowset, is_list: bool, memory: &mut Reservation) -> Result<State> {
        let scan = single_scan(source);
        if let Some((collection, scan)) = &scan
            && let Some(trees) = self.snapshot(collection, scan).await
        {
            return Ok(self.streamed(source, is_list, collection, scan.clone(), trees));
        }
        self.content(source, is_list, memory).await
    }

    /// All rows of a collection or view as they are now.
    pub(crate) async fn content(
        &self,
        source: &Rowset,
        is_list: bool,
        memory: &mut Reservation,
    ) -> Result<State> {
        let mut all: Vec<Row> = Vec::new();
        let mut bytes = 0;
        let mut rows = self.open_rows(source).await?;
        while let Some(chunk) = self.next_rows(&mut rows).await? {
            let chunk_bytes = chunk.iter().map(|row| row_bytes(row)).sum();
            hold(memory, chunk_bytes)?;
            bytes += chunk_bytes;
            all.extend(chunk);
        }
        let (schema, columns) = (source.schema().clone(), source.columns().clone());
        Ok(State::Content(Arc::new(CollectionContent { schema, columns, is_list, rows: all, bytes })))
    }

    /// The trees that a scan reads, unless it reads little of them.
    async fn snapshot(&self, collection: &Collection, scan: &Scan) -> Option<Trees> {
        match &collection.source {
            Source::Hosted(hosted) => {
                let rows = self.hosted_snapshot(*hosted, scan).await?;
                Some(Trees::Hosted(*hosted, rows))
            }
            Source::Local(local) => {
                let snapshot = local.snapshot();
                let is_small = snapshot.rows.trees[scan.tree].rows <= LITTLE_ROWS_MAX;
                (!is_small && !is_little(scan)).then_some(Trees::Local(snapshot))
            }
            Source::Declared => None,
        }
    }

    fn streamed(
        &self,
        source: &Rowset,
        is_list: bool,
        collection: &Collection,
        scan: Scan,
        trees: Trees,
    ) -> State {
        State::Snapshot(Arc::new(RowsetSnapshot {
            schema: source.schema().clone(),
            columns: source.columns().clone(),
            is_list,
            collection: collection.schema.clone(),
            trees,
            scan,
            // More than what it holds of the transaction, which is most often nothing.
            bytes: self.ledger.bytes(),
        }))
    }
}

/// Whether a scan looks at few rows, wherever they are.
fn is_little(scan: &Scan) -> bool {
    scan.limit <= LITTLE_ROWS_MAX && scan.conditions.is_empty() && scan.residual.is_empty()
}

/// Hold more of a reply, up to what a state may be.
fn hold(memory: &mut Reservation, bytes: u64) -> Result<()> {
    if memory.bytes() + bytes > STATE_BYTES_MAX {
        return Err(too_large());
    }
    memory.grow(bytes)
}

fn too_large() -> Error {
    Error::too_large(format_args!("the result takes more than {} MiB", STATE_BYTES_MAX >> 20))
}

/// Refuse parameters that a method does not have.
fn check_parameters(parameters: &Map, method: &Id, known: &[&str]) -> Result<()> {
    match parameters.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Error::bad_request(format_args!("{method} has no parameter {name:?}"))),
        None => Ok(()),
    }
}
