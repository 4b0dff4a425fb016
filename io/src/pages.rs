//! The pages and blocks that replies are read from.

use std::sync::Arc;

use components::language::collection::snapshot::RowsetSnapshot;
use components::rows::columns::Columns;
use components::rows::page::PageCell;
use components::rows::runs::Scratch;
use components::rows::scan::{Join, LoadPage, Task, in_turn};
use components::rows::schema::Layout;
use components::rows::sorter::Sorter;
use rayon::{ThreadPool, ThreadPoolBuilder};
use world::load::page_loader;

use crate::storage::Reader;
use crate::workspace::Workspace;

/// How many rows are gathered at most before they are sorted for a reply and written, in bytes.
const SORT_BYTES_MAX: usize = 16 << 20;

/// In how many forms rows that are sorted are in memory at the same time, at most.
const SORTED_FORMS: usize = 4;

/// Reads pages for replies. Its threads do nothing else: a reply does not wait for the jobs of the world.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    storage: Option<Reader>,
    /// None: the thread that asks reads alone.
    pool: Option<Arc<ThreadPool>>,
    workspace: Option<Arc<Workspace>>,
}

impl Pages {
    /// Pages in this storage, so many of which are read at the same time.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(storage: Option<Reader>, threads: usize) -> Result<Self, String> {
        let pool = || {
            let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("pages-{i}"));
            pool.build().map_err(|cause| format!("cannot start {threads} threads for pages: {cause}"))
        };
        let pool = if storage.is_some() && threads > 1 { Some(Arc::new(pool()?)) } else { None };
        Ok(Self { storage, pool, workspace: None })
    }

    /// The same pages, whose rows may be sorted in this workspace.
    pub fn with_workspace(self, workspace: Arc<Workspace>) -> Self {
        Self { workspace: Some(workspace), ..self }
    }

    /// What sorts the rows of a snapshot, if they are not found in their order.
    pub fn sorter(&self, snapshot: &RowsetSnapshot) -> Option<Sorter> {
        let part_bytes = self.workspace.as_ref().map_or(SORT_BYTES_MAX, |workspace| workspace.part_bytes());
        snapshot.sorter(self.sorted_run_bytes(), part_bytes.min(SORT_BYTES_MAX))
    }

    fn sorted_run_bytes(&self) -> usize {
        self.workspace.as_ref().map_or(SORT_BYTES_MAX, |workspace| workspace.run_bytes()).min(SORT_BYTES_MAX)
    }

    /// What sorting takes in memory at most, in bytes: rows that are gathered, as they are sorted, and as they are written;
    /// and what is known of those that were.
    pub fn sorting_bytes(&self) -> u64 {
        (SORTED_FORMS * self.sorted_run_bytes()) as u64
    }

    /// Space for rows that are sorted.
    ///
    /// # Errors
    /// Why there is none.
    pub fn scratch(&self) -> Result<Arc<dyn Scratch>, String> {
        self.workspace.as_ref().ok_or("this host has none")?.scratch()
    }

    /// What is stored, also the blocks of histories.
    ///
    /// # Errors
    /// 500 if nothing is.
    pub fn storage(&self) -> components::Result<&Reader> {
        self.storage.as_ref().ok_or_else(|| components::Error::internal("this host has no storage"))
    }

    /// Read with what reads a page that is not in memory, and with what does two tasks at the same time.
    pub fn read<T>(&self, read: impl FnOnce(&LoadPage<'_>, &Join<'_>) -> T) -> T {
        let load = |cell: &PageCell, layout: &Layout| -> Result<Arc<Columns>, String> {
            page_loader(self.storage.as_ref().ok_or("this host has no storage")?)(cell, layout)
        };
        let join = |a: Task<'_>, b: Task<'_>| match &self.pool {
            Some(pool) => {
                pool.join(a, b);
            }
            None => in_turn(a, b),
        };
        read(&load, &join)
    }
}
