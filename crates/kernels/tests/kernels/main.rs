//! Every kernel against its oracle, on any adapter (a software adapter in the project's own tests).
//!
//! A kernel that reads weights has one test for each [`SCHEMES`](support::SCHEMES) entry, so that a run lists every scheme that fails. The
//! bounds are derived in [`bounds`] from the lengths of the sums.

mod attention;
mod bounds;
mod device;
mod products;
mod rows;
mod support;
mod tokens;
