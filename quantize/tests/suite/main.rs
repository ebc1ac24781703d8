//! The converter from outside: whole folders in, whole folders out.

mod bad_input;
mod card;
mod command;
mod convert;
mod family;
mod gptq;
mod hub;
mod output;
mod remote;
mod support;
mod unusual;
