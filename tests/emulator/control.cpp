// The emulator's settings and counters for Python, by ctypes.
#include <exception>
#include <string>

#include "emulator/emulator.h"

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

/// Nullptr, or what is wrong with the settings.
EMULATOR_EXPORT const char* emulator_configure(const char* settings) {
  static std::string wrong;
  try {
    cnnops::simt::emulator::configure(settings);
    return nullptr;
  } catch (const std::exception& error) {
    wrong = error.what();
    return wrong.c_str();
  }
}

EMULATOR_EXPORT const char* emulator_settings() {
  static std::string text;
  text = cnnops::simt::emulator::settings_text();
  return text.c_str();
}

EMULATOR_EXPORT const char* emulator_counters() {
  static std::string text;
  text = cnnops::simt::emulator::counter_report();
  return text.c_str();
}

EMULATOR_EXPORT void emulator_clear_counters() { cnnops::simt::emulator::clear_counters(); }
