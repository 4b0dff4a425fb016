//! How the rows of a collection are read and written, wherever they are.

use std::ops::Bound;

use components::collection::bound::Condition;
use components::collection::key::{Key, KeyRange};
use components::collection::local::Snapshot;
use components::collection::{Collection, Row, Source};
use components::{Error, Result};

use crate::scalar::Interpreter;

/// How many rows the first chunk of a scan looks at; each chunk after it at twice as many, up to [`CHUNK_ROWS_MAX`].
const CHUNK_ROWS_FIRST: usize = 16;

/// How many rows a chunk looks at most.
const CHUNK_ROWS_MAX: usize = 512;

/// A scan of one tree of a collection, as it was when the scan began.
#[derive(Debug)]
pub(crate) struct Cursor {
    collection: Collection,
    tree: usize,
    /// What has not been looked at.
    range: KeyRange,
    is_reversed: bool,
    conditions: Vec<Condition>,
    chunk_rows: usize,
    touched: Touched,
    rows: CursorRows,
}

#[derive(Debug)]
enum CursorRows {
    Local(Snapshot),
}

/// What a scan has looked at so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    /// Pages of the tree.
    pub(crate) pages: u64,
    /// Pages that were read.
    pub(crate) pages_read: u64,
    /// Rows that were read.
    pub(crate) rows_read: u64,
}

impl Cursor {
    pub(crate) fn touched(&self) -> Touched {
        self.touched
    }
}

fn hosted() -> Error {
    Error::not_implemented("collections in chains are not supported yet")
}

impl Interpreter {
    /// The row with this primary key.
    pub(crate) async fn row(&self, collection: &Collection, key: &Key) -> Result<Option<Row>> {
        self.step(collection.schema.columns().len()).await;
        match &collection.source {
            Source::Local(local) => Ok(local.row(key)),
            Source::Hosted(_) => Err(hosted()),
        }
    }

    /// Put a row in the place of the one with this primary key, if there is one, or delete that; in all trees.
    pub(crate) async fn write(&self, collection: &Collection, key: &Key, new: Option<Row>) -> Result<()> {
        let schema = &collection.schema;
        self.step(schema.layouts().iter().map(|layout| layout.columns.len()).sum()).await;
        match &collection.source {
            Source::Local(local) => local.write(key, new),
            Source::Hosted(_) => Err(hosted()),
        }
    }

    /// Begin a scan of a tree: the rows in a range of its keys that meet conditions on its columns.
    pub(crate) async fn open(
        &self,
        collection: &Collection,
        tree: usize,
        range: KeyRange,
        is_reversed: bool,
        conditions: &[Condition],
    ) -> Result<Cursor> {
        let rows = match &collection.source {
            Source::Local(local) => CursorRows::Local(local.snapshot()),
            Source::Hosted(_) => return Err(hosted()),
        };
        Ok(Cursor {
            collection: collection.clone(),
            tree,
            range,
            is_reversed,
            conditions: conditions.to_vec(),
            chunk_rows: CHUNK_ROWS_FIRST,
            touched: Touched { pages: 1, pages_read: 1, rows_read: 0 },
            rows,
        })
    }

    /// The next rows of a scan, at least one, in order.
    pub(crate) async fn next(&self, cursor: &mut Cursor) -> Result<Option<Vec<Row>>> {
        let columns = cursor.collection.schema.layouts()[cursor.tree].columns.len();
        while !cursor.range.is_empty() {
            let (rows, looked_at) = cursor.read_chunk();
            self.step(looked_at * (1 + columns)).await;
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// The whole rows for rows of the tree that is scanned, as they were when the scan began.
    pub(crate) async fn complete(&self, cursor: &mut Cursor, rows: Vec<Row>) -> Result<Vec<Row>> {
        let layouts = cursor.collection.schema.layouts();
        let (primary, layout) = (&layouts[0], &layouts[cursor.tree]);
        self.step(rows.len() * (1 + primary.columns.len())).await;
        cursor.touched.rows_read += rows.len() as u64;
        let places: Vec<usize> = primary
            .key_columns()
            .iter()
            .map(|column| layout.place(*column).expect("an index has all columns of the key"))
            .collect();
        rows.iter()
            .map(|row| {
                let key: Vec<_> = places.iter().map(|place| row[*place].clone()).collect();
                let key = Key::of_prefix(primary, &key);
                match &cursor.rows {
                    CursorRows::Local(snapshot) => {
                        Ok(snapshot.trees[0].get(&key).expect("every entry of an index has its row").clone())
                    }
                }
            })
            .collect()
    }

    /// How many rows of a tree are in a range of its keys and meet conditions on its columns.
    pub(crate) async fn count(
        &self,
        collection: &Collection,
        tree: usize,
        range: KeyRange,
        conditions: &[Condition],
    ) -> Result<u64> {
        if let Source::Local(local) = &collection.source
            && range == KeyRange::all()
            && conditions.is_empty()
        {
            return Ok(local.snapshot().trees[tree].len() as u64);
        }
        let mut cursor = self.open(collection, tree, range, false, conditions).await?;
        let mut count = 0;
        while let Some(rows) = self.next(&mut cursor).await? {
            count += rows.len() as u64;
        }
        Ok(count)
    }
}

impl Cursor {
    /// Look at some rows: those that meet the conditions, and how many were looked at.
    fn read_chunk(&mut self) -> (Vec<Row>, usize) {
        let CursorRows::Local(snapshot) = &self.rows;
        let start = Bound::Included(&self.range.start);
        let end = self.range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let entries = snapshot.trees[self.tree].range::<_, Key>((start, end));
        let mut rows = Vec::new();
        let mut last = None;
        let mut looked_at = 0;
        let mut look_at = |(key, row): (&Key, &Row)| {
            looked_at += 1;
            if self.conditions.iter().all(|condition| condition.is_met(row)) {
                rows.push(row.clone());
            }
            last = Some(key.clone());
        };
        if self.is_reversed {
            entries.rev().take(self.chunk_rows).for_each(&mut look_at);
        } else {
            entries.take(self.chunk_rows).for_each(&mut look_at);
        }
        match last {
            Some(last) if looked_at == self.chunk_rows => {
                if self.is_reversed {
                    self.range.end = Some(last);
                } else {
                    // The next key that there could be.
                    self.range.start = [&*last, &[0]].concat().into();
                }
            }
            _ => {
                self.range = KeyRange { start: self.range.start.clone(), end: Some(self.range.start.clone()) }
            }
        }
        self.touched.rows_read += looked_at as u64;
        self.chunk_rows = (self.chunk_rows * 2).min(CHUNK_ROWS_MAX);
        (rows, looked_at)
    }
}
