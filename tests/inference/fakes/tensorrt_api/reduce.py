"""Reduce full lists of TensorRT's Python API to the classes that edge-tracker touches.

    python reduce.py FOLDER_OF_FULL_LISTS

A full list is read off a real binding module: `classes` maps a class to its `attrs`, to `enum` (its members, if it is
one) and to `signatures` (the first line of each method's docstring); `funcs` are the module's functions.
"""

import json
import sys
from pathlib import Path

CLASSES = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "DeviceType",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TensorIOMode",
]

for path in sorted(Path(sys.argv[1]).glob("*.json")):
    full = json.loads(path.read_text())
    lines = []
    for name in CLASSES:
        if name in full["classes"]:
            kept = full["classes"][name]
            kept["attrs"] = [a for a in kept["attrs"] if not a.startswith("add_") or a == "add_optimization_profile"]
            kept["signatures"] = {
                method: line
                for method, line in kept.get("signatures", {}).items()
                if method in kept["attrs"] and line.startswith(f"{method}(") and "enum" not in kept
            }
            lines.append(f"{json.dumps(name)}: {json.dumps(kept)}")
    text = ",\n".join(lines).replace("tensorrt_bindings.tensorrt.", "").replace("typing_extensions.", "")
    head = f'{{"version": {json.dumps(full["version"])},\n"funcs": {json.dumps(full["funcs"])},\n"classes": {{\n'
    Path(__file__).with_name(path.name).write_text(f"{head}{text}\n}}}}\n")
