//! The converter from outside: whole folders in, whole folders out.

mod bad_input;
mod command;
mod convert;
mod gptq;
mod output;
mod support;
mod unusual;
