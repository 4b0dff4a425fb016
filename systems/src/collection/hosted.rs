//! Rows of hosted collections: locked, then read from the pages that are committed and from what the transaction has
//! written itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use components::language::collection::snapshot::Scan;
use components::language::memory::Reservation;
use components::rows::Row;
use components::rows::bound::Condition;
use components::rows::bulk::{Bulk, BulkRows};
use components::rows::change::RowChange;
use components::rows::columns::Columns;
use components::rows::key::{Key, KeyRange};
use components::rows::page::{Found, Page, PageCell, Placed, Tree};
use components::rows::rewrite::{RowChanges, TreeChanges};
use components::rows::runs::Runs;
use components::rows::scan::{Batch, LookedAt, PageScan, Wanted};
use components::rows::schema::{Layout, Schema};
use components::rows::seen::RowsSnapshot;
use components::rows::staged::{PartOfMerge, PartRows, Staged, StagedPart, StagedTree};
use components::transaction::job::{Job, JobResult};
use components::transaction::ledger::{MayChange, Reading};
use components::transaction::lock::{LockMode, LockRange};
use components::value::ids::{HostedCollection, TreeId};
use components::{Error, Result};

use super::access::Touched;
use super::is_little;
use crate::scalar::Interpreter;

/// From how many rows of an index on the whole range of their keys is locked, and not one after the other.
const ROWS_LOCKED_ONE_BY_ONE_MAX: usize = 32;

/// A scan of so many pages at most is read in the transaction: its reply is most often small.
const LITTLE_PAGES_MAX: usize = 2;

/// How many rows a scan that only counts looks at for one unit of fuel: they are tested many at a time.
const COUNTED_ROWS_PER_FUEL: usize = 1_024;

/// Of how many pages the content is asked for at once to complete rows, so that a small cache holds them until they are
/// looked at.
const COMPLETED_PAGES_AT_ONCE: usize = 16;

/// How many pages one job looks at most for rows; the first one of a scan looks at [`JobLimits::pages_min`], each after it
/// at twice as many.
///
/// [`JobLimits::pages_min`]: crate::limits::JobLimits::pages_min
const FOUND_PAGES_MAX: usize = 512;

/// How many parts of a merge that does not fit in memory are under way at once: one is merged while another is stored.
const PARTS_AT_ONCE: usize = 2;

/// How much a commit of pages that are stored already may store to put them into their places, in bytes.
const PLACING_BYTES_MAX: u64 = 128 << 20;

/// Of more changes than this a job lets go: a thousand take a fraction of a millisecond.
const CHANGES_LET_GO_MAX: usize = 1_024;

/// When this many times as much was stored as was changed, changes lie scattered.
const SCATTERED_PAGES_SHARE: u64 = 4;

/// How large the pages may be that a transaction has stored, and replaced by others before its commit, in bytes: they stay
/// until it ends, as what it has begun to read may lie in them.
const SUPERSEDED_BYTES_MAX: u64 = 4 << 30;

/// A scan of one tree of a hosted collection.
#[derive(Debug)]
pub(crate) struct HostedScan {
    collection: HostedCollection,
    scan: Arc<PageScan>,
    _reading: Reading,
    /// Whether some of the page that comes next was looked at already.
    is_within_page: bool,
    /// How many pages the next job looks at.
    job_pages: usize,
    found: FoundRows,
}

/// Rows that a job has found, until the program has looked at them.
#[derive(Debug)]
struct FoundRows {
    rows: VecDeque<Columns>,
    memory: Reservation,
}

impl FoundRows {
    /// The next rows, so many at most.
    fn take(&mut self, rows_max: usize) -> Vec<Row> {
        let Some(rows) = self.rows.pop_front() else {
            return Vec::new();
        };
        let len = rows.len().min(rows_max);
        if len < rows.len() {
            self.rows.push_front(rows.slice(len..rows.len()));
        }
        if self.rows.is_empty() {
            self.memory.shrink(self.memory.bytes());
        }
        (0..len).map(|row| rows.row(row)).collect()
    }
}

impl HostedScan {
    /// How many pages the tree has.
    pub(crate) fn pages(&self) -> usize {
        self.scan.pages().pages()
    }

    /// Whether rows were found that were not given out.
    pub(crate) fn has_found(&self) -> bool {
        !self.found.rows.is_empty()
    }
}

impl Interpreter {
    /// Wait until a part of a tree is locked.
    pub(crate) async fn lock(
        &self,
        collection: HostedCollection,
        tree: usize,
        range: &LockRange,
        mode: LockMode,
    ) {
        let tree = u16::try_from(tree).expect("a collection has few trees");
        poll_fn(|_| match self.ledger.has_lock(collection, tree, range, mode) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await
    }

    /// Begin to look at a page, its statistics included. What was folded into it counts as read.
    async fn look_at(&self, page: &Page) {
        if !page.is_readable(self.ledger.visibility()) {
            self.restart().await
        }
        self.ledger.note_commit(page.horizon.1);
    }

    /// The content of the base of a page, as soon as it is in memory.
    async fn base(&self, page: &Page) -> Option<Arc<Columns>> {
        match &page.base {
            None => None,
            Some(cell) => Some(self.page_content(cell).await),
        }
    }

    async fn page_content(&self, cell: &PageCell) -> Arc<Columns> {
        self.ledger.note_page(cell);
        poll_fn(|_| match cell.content() {
            Some(content) => Poll::Ready(content),
            None => {
                self.ledger.want_page(cell);
                Poll::Pending
            }
        })
        .await
    }

    /// The row with a key that is locked: the transaction's own, else the newest one that was committed before it.
    async fn locked_row(&self, collection: HostedCollection, layout: &Layout, key: &Key) -> Option<Row> {
        if let Some(own) = self.ledger.own_row(collection, key) {
            return own;
        }
        let (trees, _reading) = self.ledger.trees(collection);
        self.committed_row(&trees[0], layout, key).await
    }

    async fn committed_row(&self, tree: &Tree, layout: &Layout, key: &Key) -> Option<Row> {
        let (_, page) = tree.page(key);
        self.look_at(page).await;
        loop {
            match page.find(layout, key, self.ledger.visibility()) {
                Found::Row(row, commit) => {
                    if let Some(cell) = &page.base {
                        self.ledger.note_page(cell);
                    }
                    self.ledger.note_commit(commit);
                    return row;
                }
                Found::NotResident(cell) => {
                    self.page_content(&cell).await;
                }
            }
        }
    }

    /// See [`Interpreter::row`].
    pub(super) async fn hosted_row(
        &self,
        collection: HostedCollection,
        layout: &Layout,
        key: &Key,
    ) -> Result<Option<Row>> {
        let mode = self.ledger.read_mode(collection);
        self.lock(collection, 0, &LockRange::Key(key.clone()), mode).await;
        Ok(self.locked_row(collection, layout, key).await)
    }

    /// See [`Interpreter::write`].
    pub(super) async fn write_hosted_row(
        &self,
        collection: HostedCollection,
        layout: &Layout,
        key: &Key,
        new: Option<Row>,
    ) -> Result<()> {
        self.lock(collection, 0, &LockRange::Key(key.clone()), LockMode::Write).await;
        loop {
            let since = self.make_room(collection).await?;
            let old = self.locked_row(collection, layout, key).await;
            // Else another part of the program may have written the row meanwhile, into a page.
            let change = RowChange { old, new: new.clone() };
            if self.ledger.change_row(collection, key, change, since)? {
                return Ok(());
            }
        }
    }

    /// Wait until rows of a collection may change; if the transaction has changed many, of whichever collection, until they
    /// are in pages.
    async fn make_room(&self, collection: HostedCollection) -> Result<u64> {
        let bytes_max = if self.is_real() { self.jobs.changes_bytes } else { u64::MAX };
        loop {
            let may_change = poll_fn(|_| match self.ledger.may_change(collection, bytes_max) {
                MayChange::Later => Poll::Pending,
                other => Poll::Ready(other),
            });
            match may_change.await {
                MayChange::Now(since) => return Ok(since),
                MayChange::After(fullest) => self.rewrite(fullest).await?,
                MayChange::Later => unreachable!("it was waited for"),
            }
        }
    }

    /// Whether what the transaction writes may be stored: a hypothetical one leaves no trace.
    fn is_real(&self) -> bool {
        self.ledger.visibility().commit == u64::MAX
    }

    /// What was changed since the last rows of a collection went into pages goes into pages, too: a commit does not put
    /// changes beside them. And so do more changes than a tick should apply.
    ///
    /// # Errors
    /// 413 if there are too many pages for one commit, 503 if there is no room for them.
    pub(crate) async fn settle_rows(&self) -> Result<()> {
        if self.is_real() {
            for collection in self.ledger.unsettled(self.jobs.changes_max) {
                self.rewrite(collection).await?;
            }
        }
        Ok(())
    }

    /// Merge what the transaction has changed of a collection into pages that nobody else sees before the commit.
    async fn rewrite(&self, collection: HostedCollection) -> Result<()> {
        self.lock_whole(collection, &self.ledger.rows_schema(collection)).await;
        let Some(changes) = self.ledger.begin_rewrite(collection, self.jobs.part_bytes) else {
            return Ok(());
        };
        let staged = self.merge_changes(collection, changes).await;
        let (staged, is_delete, result) = match staged {
            Ok((staged, is_delete)) => (Some(staged), is_delete, Ok(())),
            Err(cause) => (None, false, Err(cause)),
        };
        let (superseded_bytes, changes) = self.ledger.end_rewrite(collection, staged, is_delete);
        if changes.len() > CHANGES_LET_GO_MAX {
            self.ledger.submit(Job::LetGo(changes));
        }
        result?;
        if superseded_bytes > SUPERSEDED_BYTES_MAX {
            return Err(Error::too_large(format_args!(
                "this transaction writes the same rows again and again: more than {} GiB of pages that it has replaced itself",
                SUPERSEDED_BYTES_MAX >> 30
            )));
        }
        Ok(())
    }

    /// What changes make of each tree, stored, and whether rows only go.
    async fn merge_changes(
        &self,
        collection: HostedCollection,
        changes: RowChanges,
    ) -> Result<(Vec<StagedTree>, bool)> {
        let (schema, trees) = (changes.schema.clone(), changes.trees.clone());
        let mut stored_bytes = 0;
        let gathered = match self.run_job(Job::Gather(changes)).await {
            JobResult::Gathered(gathered) => gathered,
            other => unreachable!("changes are gathered, not {other:?}"),
        };
        let mut staged = Vec::with_capacity(gathered.len());
        let mut is_delete = true;
        let mut commit_bytes = 0;
        for (tree, TreeChanges { added, removed, parts }) in gathered.into_iter().enumerate() {
            is_delete &= added.is_empty();
            let part = PartOfMerge {
                schema: schema.clone(),
                trees: trees.clone(),
                tree: TreeId::of(collection, tree as u16),
                added: PartRows::Resident(added),
                removed: Some(PartRows::Resident(removed)),
                range: KeyRange::none(),
            };
            let mut count = |part: &StagedPart| stored_bytes += part.stored_bytes;
            staged.push(self.merge_tree(&part, parts, &mut commit_bytes, &mut count).await?);
        }
        if stored_bytes > SCATTERED_PAGES_SHARE * self.jobs.changes_bytes {
            self.ledger.note_scattered();
        }
        Ok((staged, is_delete))
    }

    /// Wait until all trees of a collection are locked for writing, and all of what is committed can be read.
    async fn lock_whole(&self, collection: HostedCollection, schema: &Schema) {
        for tree in 0..schema.layouts().len() {
            self.lock(collection, tree, &LockRange::all(), LockMode::Write).await;
        }
        let trees = self.ledger.committed_trees(collection);
        let visibility = self.ledger.visibility();
        if !trees.iter().flat_map(Tree::iter).all(|(_, page)| page.is_readable(visibility)) {
            self.restart().await
        }
    }

    /// Write few rows that came at once, as if each had come alone: nobody waits for other rows than these.
    pub(super) async fn write_hosted_rows(
        &self,
        collection: HostedCollection,
        bulk: &Bulk,
        rows: &Columns,
    ) -> Result<()> {
        let layout = &bulk.schema().layouts()[0];
        for at in 0..rows.len() {
            self.step(layout.columns.len()).await;
            let row = rows.row(at);
            self.write_hosted_row(collection, layout, &Key::of_row(layout, &row), Some(row)).await?;
        }
        // Those in whose place others of them came were written, too.
        self.ledger.note_written(bulk.sent() - rows.len() as u64);
        Ok(())
    }

    /// Write many rows at once.
    pub(super) async fn merge_hosted_rows(
        &self,
        collection: HostedCollection,
        bulk: &Arc<Bulk>,
    ) -> Result<()> {
        self.lock_whole(collection, bulk.schema()).await;
        let trees = self.ledger.committed_trees(collection);
        self.ledger.note_written(bulk.sent());
        if let BulkRows::Spilled(runs) = bulk.rows() {
            let staged = self.merge_parts(collection, bulk.schema(), runs, &trees).await?;
            self.ledger.place_rows(collection, staged);
            return Ok(());
        }
        match self.run_job(Job::Merge { bulk: bulk.clone(), trees }).await {
            JobResult::Merged(merged) => {
                self.ledger.merge_rows(collection, merged);
                Ok(())
            }
            other => unreachable!("merging gives what was merged, not {other:?}"),
        }
    }

    /// Merge rows that do not fit in memory, and store what that makes, part by part.
    async fn merge_parts(
        &self,
        collection: HostedCollection,
        schema: &Arc<Schema>,
        runs: &Runs,
        trees: &Arc<Vec<Tree>>,
    ) -> Result<Staged> {
        let mut staged = Staged::default();
        let mut commit_bytes = 0;
        // The entries of each index that come and go are known when all rows are merged.
        let indices = schema.layouts().len() - 1;
        let mut entries: Vec<(Runs, Runs)> = vec![(runs.beside(), runs.beside()); indices];
        for tree in 0..=indices {
            let (added, removed) = match tree.checked_sub(1) {
                None => (Arc::new(runs.clone()), None),
                Some(index) => {
                    let (added, removed) = entries[index].clone();
                    (Arc::new(added), Some(Arc::new(removed)))
                }
            };
            let all: Vec<&Runs> = removed.as_deref().into_iter().chain([&*added]).collect();
            let ranges = Runs::parts(&all);
            let part = PartOfMerge {
                schema: schema.clone(),
                trees: trees.clone(),
                tree: TreeId::of(collection, tree as u16),
                added: PartRows::Spilled(added),
                removed: removed.map(PartRows::Spilled),
                range: KeyRange::none(),
            };
            let mut take_entries = |part: &StagedPart| {
                for ((added, removed), (coming, going)) in entries.iter_mut().zip(&part.entries) {
                    added.push(coming.clone());
                    removed.push(going.clone());
                }
            };
            staged.trees.push(self.merge_tree(&part, ranges, &mut commit_bytes, &mut take_entries).await?);
        }
        Ok(staged)
    }

    /// Merge rows into one tree, part by part, and store what that makes; `each` part is shown when it is stored.
    async fn merge_tree(
        &self,
        whole: &PartOfMerge,
        ranges: Vec<KeyRange>,
        commit_bytes: &mut u64,
        each: &mut (dyn FnMut(&StagedPart) + Send),
    ) -> Result<StagedTree> {
        let mut ranges = ranges.into_iter();
        let mut merged = StagedTree::default();
        let mut under_way = VecDeque::new();
        loop {
            while under_way.len() < PARTS_AT_ONCE
                && let Some(range) = ranges.next()
            {
                let part = PartOfMerge { range, ..whole.clone() };
                under_way.push_back(self.ledger.submit(Job::MergePart(Arc::new(part))));
            }
            let Some(number) = under_way.pop_front() else { break };
            let part = self.staged_part(number).await?;
            merged.push(&part);
            each(&part);
            *commit_bytes += part.commit_bytes;
            if *commit_bytes > PLACING_BYTES_MAX {
                return Err(Error::too_large("these rows make too many pages for one transaction"));
            }
        }
        Ok(merged)
    }

    async fn staged_part(&self, number: u32) -> Result<Arc<StagedPart>> {
        match self.job_result(number).await {
            JobResult::Staged(part) => Ok(part),
            JobResult::Refused(cause) => Err(cause),
            other => unreachable!("merging a part stores what was merged, not {other:?}"),
        }
    }

    pub(super) async fn run_job(&self, job: Job) -> JobResult {
        let number = self.ledger.submit(job);
        self.job_result(number).await
    }

    async fn job_result(&self, number: u32) -> JobResult {
        poll_fn(|_| self.ledger.take_job_result(number).map_or(Poll::Pending, Poll::Ready)).await
    }

    /// What the transaction would see is gone; it begins again.
    async fn restart<T>(&self) -> T {
        poll_fn(|_| {
            self.ledger.want_restart();
            Poll::Pending
        })
        .await
    }

    /// A part of a collection, locked and as it is now.
    async fn locked_rows(
        &self,
        collection: HostedCollection,
        tree: usize,
        range: &KeyRange,
    ) -> (RowsSnapshot, Reading) {
        // A range without keys overlaps nothing, not even itself: it would never be found among the locks.
        let range = match range.is_empty() {
            true => LockRange::Key(range.start.clone()),
            false => LockRange::Range(range.clone()),
        };
        self.lock(collection, tree, &range, LockMode::Read).await;
        self.ledger.rows(collection)
    }

    /// Begin a scan of a range of a tree.
    pub(super) async fn hosted_scan(
        &self,
        collection: HostedCollection,
        tree: usize,
        range: &KeyRange,
        is_reversed: bool,
        conditions: &[Condition],
    ) -> HostedScan {
        let (rows, reading) = self.locked_rows(collection, tree, range).await;
        let scan = PageScan { rows, tree, is_reversed, conditions: conditions.to_vec() };
        HostedScan {
            collection,
            scan: Arc::new(scan),
            _reading: reading,
            is_within_page: false,
            job_pages: self.jobs.pages_min,
            found: FoundRows { rows: VecDeque::new(), memory: Reservation::new(self.ledger.clone()) },
        }
    }

    /// The next rows of a scan that meet its conditions, which are taken off the range, and for how many rows the program
    /// has to pay; perhaps none.
    pub(super) async fn hosted_chunk(
        &self,
        scan: &mut HostedScan,
        range: &mut KeyRange,
        chunk_rows: usize,
        wanted: u64,
        touched: &mut Touched,
    ) -> (Vec<Row>, usize) {
        if scan.has_found() {
            let rows = scan.found.take(chunk_rows);
            let looked_at = rows.len();
            return (rows, looked_at);
        }
        let is_long = touched.pages_read >= self.jobs.pages_min as u64 && !scan.is_within_page;
        // A transaction that may hold no more goes on alone.
        if is_long && scan.found.memory.grow(2 * self.jobs.found_bytes).is_ok() {
            let wanted = Wanted { rows: wanted, pages_read: touched.pages_read };
            let passed = self.hosted_find(scan, range, wanted, touched).await;
            return (Vec::new(), passed);
        }
        let pages = scan.scan.clone();
        let before = range.clone();
        let batch = self.batch(&pages, range, 1).await;
        let is_counted = std::mem::take(&mut scan.is_within_page) && batch.passed == 0;
        let Some(mut part) = batch.parts.into_iter().next() else {
            return (Vec::new(), batch.passed);
        };
        touched.pages_read += u64::from(!is_counted);
        let base = self.base(&part.page).await;
        // No more rows than the chunk is to have: whoever wants one row does not pay for a page.
        if pages.narrow(&mut part, base.as_deref(), chunk_rows) {
            *range = pages.rest_after(&before, &part.range);
            scan.is_within_page = true;
        }
        let (seen, newest) = pages.see(&part, base);
        self.ledger.note_commit(newest);
        touched.rows_read += seen.len() as u64;
        let mut rows = seen.rows(&pages.conditions);
        if pages.is_reversed {
            rows.reverse();
        }
        (rows, batch.passed + seen.len())
    }

    /// Take the next parts off the range of a scan.
    async fn batch(&self, pages: &PageScan, range: &mut KeyRange, parts_max: usize) -> Batch {
        match pages.batch(range, parts_max, u64::MAX) {
            Some(batch) => {
                self.ledger.note_commit(batch.newest_commit);
                *range = batch.rest.clone();
                batch
            }
            None => self.restart().await,
        }
    }

    /// Find the next rows of a scan beside the world, by several threads; pages in storage do not come into memory. Says
    /// how many pages were passed by.
    async fn hosted_find(
        &self,
        scan: &mut HostedScan,
        range: &mut KeyRange,
        wanted: Wanted,
        touched: &mut Touched,
    ) -> usize {
        let before = range.clone();
        let batch = self.batch(&scan.scan, range, scan.job_pages).await;
        scan.job_pages = (2 * scan.job_pages).min(FOUND_PAGES_MAX);
        let parts = Arc::new(batch.parts);
        if !parts.is_empty() {
            let job = Job::Find {
                scan: scan.scan.clone(),
                parts: parts.clone(),
                bytes_max: self.jobs.found_bytes,
                wanted,
            };
            let found = match self.run_job(job).await {
                JobResult::Found(found) => found,
                other => unreachable!("a scan finds rows, not {other:?}"),
            };
            self.ledger.note_commit(found.looked_at.newest_commit);
            touched.pages_read += found.looked_at.pages;
            touched.rows_read += found.looked_at.rows;
            if let Some(next) = parts.get(found.parts) {
                *range = scan.scan.rest_from(&before, &next.range);
            }
            scan.found.rows = found.rows.into();
        }
        // What was reserved for the job is more than it has found, but for pages of a single row.
        let found_bytes = scan.found.rows.iter().map(|rows| rows.bytes() as u64).sum();
        scan.found.memory.shrink(scan.found.memory.bytes().saturating_sub(found_bytes));
        batch.passed
    }

    /// The rows of the primary tree with these keys, which an index has.
    ///
    /// # Errors
    /// 500 if what is stored lacks one of them.
    pub(super) async fn hosted_rows(
        &self,
        scan: &HostedScan,
        layout: &Layout,
        keys: &[Key],
    ) -> Result<Vec<Row>> {
        let collection = scan.collection;
        if keys.len() > ROWS_LOCKED_ONE_BY_ONE_MAX {
            let (first, last) = (keys.iter().min().expect("keys"), keys.iter().max().expect("keys"));
            let range = KeyRange { start: first.clone(), end: Some(last.next()) };
            self.lock(collection, 0, &LockRange::Range(range), LockMode::Read).await;
        } else {
            poll_fn(|_| {
                let locked = keys.iter().map(|key| {
                    self.ledger.has_lock(collection, 0, &LockRange::Key(key.clone()), LockMode::Read)
                });
                // All are asked for at once.
                match locked.fold(true, |all, is_locked| all & is_locked) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
        let mut rows: Vec<Option<Row>> = vec![None; keys.len()];
        let mut committed: Vec<(&Key, usize)> = Vec::with_capacity(keys.len());
        for (i, key) in keys.iter().enumerate() {
            match scan.scan.rows.own[0].get(key) {
                Some(own) => rows[i] = own.clone(),
                None => committed.push((key, i)),
            }
        }
        committed.sort_unstable();
        // The newest of what is committed, unless all was locked when the scan began, which then sees pages of the
        // transaction's own.
        let trees = match scan.scan.rows.is_own {
            true => scan.scan.rows.trees.clone(),
            false => self.ledger.committed_trees(collection),
        };
        self.committed_rows(&trees[0], layout, &committed, &mut rows).await;
        rows.into_iter()
            .collect::<Option<Vec<Row>>>()
            .ok_or_else(|| Error::internal("what is stored is damaged: an index has an entry without a row"))
    }

    /// Look up keys, which ascend, and put the rows into their places. The pages that are not in memory are asked for
    /// together, some at a time; each is looked at when it comes, and may go again then.
    async fn committed_rows(
        &self,
        tree: &Tree,
        layout: &Layout,
        keys: &[(&Key, usize)],
        rows: &mut [Option<Row>],
    ) {
        let mut pages = Vec::new();
        let mut rest = keys;
        while let Some((first, _)) = rest.first() {
            let Placed { range, page } = tree.place(first);
            let (here, after) = rest.split_at(rest.partition_point(|(key, _)| range.contains(key)));
            self.look_at(&page).await;
            pages.push((page, here));
            rest = after;
        }
        poll_fn(|_| {
            let mut asked = 0;
            pages.retain(|(page, keys)| {
                if asked == COMPLETED_PAGES_AT_ONCE {
                    return true;
                }
                let wanted = self.find_in_page(page, layout, keys, rows);
                asked += usize::from(wanted);
                wanted
            });
            if pages.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }

    /// Look up keys of a page, as [`Self::committed_rows`] does. Says whether the content of the page is asked for instead.
    fn find_in_page(
        &self,
        page: &Page,
        layout: &Layout,
        keys: &[(&Key, usize)],
        rows: &mut [Option<Row>],
    ) -> bool {
        for (key, i) in keys {
            match page.find(layout, key, self.ledger.visibility()) {
                Found::Row(row, commit) => {
                    if let Some(cell) = &page.base {
                        self.ledger.note_page(cell);
                    }
                    self.ledger.note_commit(commit);
                    rows[*i] = row;
                }
                Found::NotResident(cell) => {
                    self.ledger.want_page(&cell);
                    return true;
                }
            }
        }
        false
    }

    /// A collection as it is now, for whoever reads a scan of it when the transaction has ended: all that it reads is
    /// locked until then, and there. None if that is little, of which only what is found should be locked.
    pub(super) async fn hosted_snapshot(
        &self,
        collection: HostedCollection,
        scan: &Scan,
    ) -> Option<RowsSnapshot> {
        let (rows, _reading) = self.locked_rows(collection, scan.tree, &scan.range).await;
        if is_little(scan) || rows.trees[scan.tree].pages_in(&scan.range).nth(LITTLE_PAGES_MAX).is_none() {
            return None;
        }
        let mut read = vec![(scan.tree, scan.range.clone())];
        if scan.completes {
            read.push((0, KeyRange::all()));
            self.lock(collection, 0, &LockRange::all(), LockMode::Read).await;
        }
        self.ledger.keep_pages(collection);
        let (snapshot, _reading) = self.ledger.rows(collection);
        let visibility = self.ledger.visibility();
        for (tree, range) in &read {
            for (_, page) in snapshot.trees[*tree].pages_in(range) {
                self.step(0).await;
                if !page.is_readable(visibility) {
                    self.restart::<()>().await;
                }
                self.ledger.note_commit(page.newest_seen(visibility));
            }
        }
        Some(snapshot)
    }

    /// How many rows of a range of a tree meet the conditions, or so many if there are more, and what was looked at.
    pub(super) async fn hosted_count(
        &self,
        collection: HostedCollection,
        tree: usize,
        range: KeyRange,
        conditions: &[Condition],
        rows_max: u64,
    ) -> (u64, Touched) {
        let (rows, _reading) = self.locked_rows(collection, tree, &range).await;
        let scan = PageScan { rows, tree, is_reversed: false, conditions: conditions.to_vec() };
        let pages = scan.pages().pages() as u64;
        let Some((mut counted, mut parts)) = scan.plan_count(&range, rows_max) else {
            return self.restart().await;
        };
        if counted.rows >= rows_max {
            parts.clear();
        }
        if parts.len() > self.jobs.pages_min {
            // The pages are looked at beside the world, by several threads; those in storage do not come into memory.
            let wanted = Wanted { rows: rows_max - counted.rows, pages_read: 0 };
            let job = Job::Count { scan: Arc::new(scan), parts: Arc::new(parts), wanted };
            match self.run_job(job).await {
                JobResult::Counted(rest) => counted = counted.and(rest),
                other => unreachable!("counting gives a count, not {other:?}"),
            }
        } else {
            for part in parts {
                if counted.rows >= rows_max {
                    break;
                }
                let base = self.base(&part.page).await;
                let one = scan.count_part(&part, base);
                let rows_read = one.looked_at.rows as usize;
                self.step(crate::scalar::ITEMS_PER_FUEL * (rows_read / COUNTED_ROWS_PER_FUEL)).await;
                counted = counted.and(one);
            }
        }
        let LookedAt { pages: pages_read, rows: rows_read, newest_commit } = counted.looked_at;
        self.ledger.note_commit(newest_commit);
        (counted.rows.min(rows_max), Touched { pages, pages_read, rows_read })
    }
}
