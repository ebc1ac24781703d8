//! The converter from outside: whole folders in, whole folders out.

mod bad_input;
mod command;
mod convert;
mod family;
mod gptq;
mod output;
mod support;
mod unusual;
