//! Streams: what to do with the items of a collection, one after the other (protocol page 02 §6).

use std::sync::Arc;

use super::view::Rowset;
use crate::language::state::{Extent, State};
use crate::value::error::Result;

/// A lazy description of items: nothing is read before it is consumed, and it can be consumed again.
#[derive(Clone, Debug)]
pub struct Stream {
    source: StreamSource,
    extent: Extent,
}

/// Where the items come from.
#[derive(Clone, Debug)]
pub enum StreamSource {
    /// The rows of a collection or view.
    Rows(Rowset),
    /// Each run of equal items of a stream as one.
    Aggregate(Arc<Stream>),
    /// What an op makes of each item of a stream.
    Map(Arc<Stream>, State),
}

impl Stream {
    /// A stream of these items.
    ///
    /// # Errors
    /// 400 if streams and views nest too deep.
    pub fn new(source: StreamSource) -> Result<Self> {
        let extent = match &source {
            StreamSource::Rows(rows) => Extent::of([(0, &rows.to_state())].into_iter())?,
            StreamSource::Aggregate(stream) => Extent::of([(0, &State::Stream(stream.clone()))].into_iter())?,
            StreamSource::Map(stream, op) => {
                Extent::of([(0, &State::Stream(stream.clone())), (0, op)].into_iter())?
            }
        };
        Ok(Self { source, extent })
    }

    /// Where the items come from.
    pub fn source(&self) -> &StreamSource {
        &self.source
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }
}
