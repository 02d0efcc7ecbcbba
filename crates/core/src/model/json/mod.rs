//! JSON that keeps the bytes it was read from.
//!
//! Token texts pass through the gateway in escaped form, as the upstream wrote them. Nothing is
//! decoded and encoded again, so a chunk is written byte for byte as it was read. A surrogate pair
//! that a server split between two tokens survives.
//!
//! [`Members`] is the one model of an object: its members in their order, values as raw JSON.
//! [`Node`] is a value with its path, for checks that name the parameter they refuse. [`RawObject`]
//! owns an object.

mod body;
mod members;
mod object;
mod refusal;
mod string;
mod unique;
mod write;

pub use body::MAX_DEPTH;
pub(crate) use body::read_object;
pub(crate) use members::{Kind, Members, Node, present};
pub use object::RawObject;
pub(crate) use refusal::{invalid, missing, quote, unsupported};
pub(crate) use string::{
    Unescaper, escape, is_string_inside, quoted, string_inside, string_inside_len, unescape,
};
pub(crate) use unique::is_array_of_unique_objects;
pub(crate) use write::{ObjectWriter, push_array, push_number, raw_string, raw_value};
