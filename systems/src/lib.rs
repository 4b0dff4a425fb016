//! What happens: one file per stage of the tick, and the interpreters they call.
