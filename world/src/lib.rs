//! What runs when: the `World`, the schedules, [`Host::tick`], and what is loaded before the first one.

pub mod host;
pub mod inspect;
pub mod load;

pub use host::{Host, HostConfig};
pub use inspect::InspectQuery;
pub use systems::tick::{Input, Inputs, Limits, Load, Outputs, Statistics};
