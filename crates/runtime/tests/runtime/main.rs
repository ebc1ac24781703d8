//! The runtime on whatever adapter there is (a software one in the project's own tests).

mod errors;
mod family;
mod geometry;
mod goldens;
mod positions;
mod sessions;
mod support;
