//! The converter from outside: whole folders in, whole folders out.

mod bad_input;
mod card;
mod cases;
mod command;
mod convert;
mod family;
mod gptq;
mod hub;
mod output;
mod ranges;
mod remote;
mod support;
mod unusual;
