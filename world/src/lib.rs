//! What runs when: the `World`, the schedules, [`Host::tick`], and what is loaded before the first one.

pub mod history;
pub mod host;
pub mod inspect;
pub mod load;
pub mod verify;

pub use host::{Host, HostConfig, Inherited};
pub use inspect::{InspectQuery, Inspection};
pub use systems::execute::panic_message;
pub use systems::limits::{EFFECTS_BYTES_MAX, JobLimits, Limits, PINNED_BYTES_MAX};
pub use systems::room::Room;
pub use systems::tick::{Input, Inputs, Load, Outputs, Statistics};
