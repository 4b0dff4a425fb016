//! What runs when: the `World`, the schedules, [`Host::tick`], and what is loaded before the first one.

pub mod history;
pub mod host;
pub mod inspect;
pub mod load;
pub mod verify;

pub use host::{Host, HostConfig, Inherited};
pub use inspect::{InspectQuery, Inspection};
pub use systems::execute::panic_message;
pub use systems::room::Room;
pub use systems::tick::{
    EFFECTS_BYTES_MAX, Input, Inputs, JobLimits, Limits, Load, Outputs, PINNED_BYTES_MAX, Statistics,
};
