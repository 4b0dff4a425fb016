//! The pages and blocks that replies are read from.

use std::sync::Arc;

use components::rows::columns::Columns;
use components::rows::page::PageCell;
use components::rows::scan::{Join, LoadPage, Task, in_turn};
use components::rows::schema::Layout;
use rayon::{ThreadPool, ThreadPoolBuilder};
use world::load::page_loader;

use crate::storage::Reader;

/// Reads pages for replies. Its threads do nothing else: a reply does not wait for the jobs of the world.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    storage: Option<Reader>,
    /// None: the thread that asks reads alone.
    pool: Option<Arc<ThreadPool>>,
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
        Ok(Self { storage, pool })
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
