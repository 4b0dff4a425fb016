//! Collections that live as long as their transaction.

use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::language::chain::History;
use crate::language::memory::{Account, Reservation};
use crate::rows::bound::Condition;
use crate::rows::change::changes;
use crate::rows::key::{Key, KeyRange};
use crate::rows::schema::Schema;
use crate::rows::{Row, row_bytes};
use crate::value::error::Result;
use crate::value::name::Path;

/// One tree. A clone is a snapshot of it, and costs nothing.
pub type Tree = imbl::OrdMap<Key, Row>;

/// What an entry of a tree takes beside its key and row, in bytes.
const ENTRY_BYTES: u64 = 64;

/// The rows of a collection that is not hosted.
#[derive(Debug)]
pub struct LocalCollection {
    schema: Arc<Schema>,
    content: Mutex<Content>,
    /// What records its writes, and where it is in the subject of its chain.
    history: Option<(Arc<History>, Path)>,
}

#[derive(Debug)]
struct Content {
    trees: Vec<Tree>,
    memory: Reservation,
    /// Held by every snapshot: what is deleted while there is one is still there.
    snapshots: Arc<()>,
    /// What only snapshots may still hold, in bytes.
    garbage_bytes: u64,
}

/// All trees of a collection as they were at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The primary tree, then the indices.
    pub trees: Vec<Tree>,
    _alive: Arc<()>,
}

#[cfg(test)]
impl Snapshot {
    /// One of trees that are nobody's.
    pub(crate) fn of(trees: Vec<Tree>) -> Self {
        Self { trees, _alive: Arc::default() }
    }
}

impl LocalCollection {
    /// An empty collection on the account of a transaction.
    pub fn new(schema: Arc<Schema>, account: Arc<dyn Account>) -> Self {
        let content = Content {
            trees: vec![Tree::new(); schema.layouts().len()],
            memory: Reservation::new(account),
            snapshots: Arc::default(),
            garbage_bytes: 0,
        };
        Self { schema, content: Mutex::new(content), history: None }
    }

    /// An empty collection at this path in the subject of a block chain that is not hosted.
    pub fn in_chain(
        schema: Arc<Schema>,
        account: Arc<dyn Account>,
        history: Arc<History>,
        path: Path,
    ) -> Self {
        Self { history: Some((history, path)), ..Self::new(schema, account) }
    }

    /// What records its writes, and where it is in the subject of its chain, if it is in a block chain.
    pub fn history(&self) -> Option<&(Arc<History>, Path)> {
        self.history.as_ref()
    }

    // What panics in between is a defect, and ends the transaction that owns this.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its rows are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.content().trees[0].is_empty()
    }

    /// The row with this key.
    pub fn row(&self, key: &Key) -> Option<Row> {
        self.content().trees[0].get(key).cloned()
    }

    /// All rows as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let content = self.content();
        Snapshot { trees: content.trees.clone(), _alive: content.snapshots.clone() }
    }

    /// Put a row in the place of the one with this key, if there is one, or delete that.
    ///
    /// # Errors
    /// 400 if the transaction would hold too much; then nothing has changed.
    pub fn write(&self, key: &Key, new: Option<Row>) -> Result<()> {
        let content = &mut *self.content();
        let old = content.trees[0].get(key).cloned();
        let changes = changes(&self.schema, old.as_ref(), new.as_ref());
        let entry_bytes = |key: &Key, row: &Row| ENTRY_BYTES + key.len() as u64 + row_bytes(row);
        let added: u64 =
            changes.iter().filter_map(|change| Some(entry_bytes(&change.key, change.row.as_ref()?))).sum();
        content.memory.grow(added)?;
        for change in changes {
            let tree = &mut content.trees[change.tree];
            let old = match change.row {
                Some(row) => tree.insert(change.key.clone(), row),
                None => tree.remove(&change.key),
            };
            content.garbage_bytes += old.map_or(0, |old| entry_bytes(&change.key, &old));
        }
        if Arc::strong_count(&content.snapshots) == 1 {
            content.memory.shrink(std::mem::take(&mut content.garbage_bytes));
        }
        Ok(())
    }
}

/// Look at some rows of a tree, and take them off the range: those that meet the conditions, and how many were looked at.
pub fn read_chunk(
    tree: &Tree,
    range: &mut KeyRange,
    is_reversed: bool,
    conditions: &[Condition],
    chunk_rows: usize,
) -> (Vec<Row>, usize) {
    let start = Bound::Included(&range.start);
    let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let entries = tree.range::<_, Key>((start, end));
    let mut rows = Vec::new();
    let mut last = None;
    let mut looked_at = 0;
    let mut look_at = |(key, row): (&Key, &Row)| {
        looked_at += 1;
        if conditions.iter().all(|condition| condition.is_met(row)) {
            rows.push(row.clone());
        }
        last = Some(key.clone());
    };
    if is_reversed {
        entries.rev().take(chunk_rows).for_each(&mut look_at);
    } else {
        entries.take(chunk_rows).for_each(&mut look_at);
    }
    match last {
        Some(last) if looked_at == chunk_rows => {
            if is_reversed {
                range.end = Some(last);
            } else {
                range.start = last.next();
            }
        }
        _ => range.end = Some(range.start.clone()),
    }
    (rows, looked_at)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::rows::schema::tests::inventory;
    use crate::value::number::Number;

    /// An account without a limit.
    #[derive(Debug, Default)]
    struct Purse(AtomicU64);

    impl Purse {
        fn bytes(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }

    impl Account for Purse {
        fn reserve(&self, bytes: u64) -> Result<()> {
            self.0.fetch_add(bytes, Relaxed);
            Ok(())
        }

        fn release(&self, bytes: u64) {
            self.0.fetch_sub(bytes, Relaxed);
        }
    }

    fn colors(tree: &Tree) -> Vec<String> {
        tree.values().map(|row| row[0].to_string()).collect()
    }

    #[test]
    fn a_snapshot_stays_as_it_was_and_every_byte_is_given_back() {
        let account = Arc::new(Purse::default());
        let schema = Arc::new(inventory());
        let table = LocalCollection::new(schema.clone(), account.clone());
        let row = |sku: u64, color: &str| -> Row { [sku.into(), color.into(), Number::I32(1).into()].into() };
        let key = |sku: u64| Key::of_prefix(&schema.layouts()[0], &[sku.into()]);
        for (sku, color) in [(1, "red"), (2, "blue")] {
            table.write(&key(sku), Some(row(sku, color))).unwrap();
        }
        let two_rows = account.bytes();
        let snapshot = table.snapshot();
        table.write(&key(1), Some(row(1, "pink"))).unwrap();
        table.write(&key(2), None).unwrap();
        assert!(table.row(&key(2)).is_none());
        assert_eq!(colors(&snapshot.trees[1]), ["blue", "red"]);
        assert_eq!(colors(&table.snapshot().trees[1]), ["pink"]);
        assert!(account.bytes() > two_rows, "the snapshot still holds what was replaced");
        drop(snapshot);
        table.write(&key(1), None).unwrap();
        assert_eq!(account.bytes(), 0);
        table.write(&key(1), Some(row(1, "red"))).unwrap();
        drop(table);
        assert_eq!(account.bytes(), 0);
    }
}
