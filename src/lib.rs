//! wip
#![allow(missing_docs)]
pub mod limits; mod id; mod time; mod clock; mod codec; mod definition; mod status; pub mod machine; pub mod store;
pub use definition::*; pub use limits::Limits; pub use status::*; pub use id::*; pub use clock::*; pub use codec::*; pub use time::*;
pub struct RuntimeBuilder;
