"""A safetensors file as its parts, so that tests can break it: header (dict), data (bytearray)."""
import json
import struct


class Safetensors:
    def __init__(self, header, data):
        self.header, self.data = header, data

    @classmethod
    def load(cls, path):
        raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        return cls(json.loads(raw[8:8 + length]), bytearray(raw[8 + length:]))

    def save(self, path):
        header = json.dumps(self.header).encode()
        header += b" " * (-len(header) % 8)
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(self.data))

    def name(self, end):
        """The one tensor whose name ends so."""
        found = [name for name in self.header if name.endswith(end)]
        assert len(found) == 1, (end, found)
        return found[0]

    def remove(self, end):
        """Removes a tensor and its bytes, so that the rest still is a valid file."""
        begin, stop = self.header.pop(self.name(end))["data_offsets"]
        del self.data[begin:stop]
        for tensor in self.header.values():
            if "data_offsets" in tensor and tensor["data_offsets"][0] >= stop:
                tensor["data_offsets"] = [x - (stop - begin) for x in tensor["data_offsets"]]

    def set_bf16(self, end, value, first=0, count=1):
        """Writes `count` values from the place `first` of a bf16 tensor."""
        tensor = self.header[self.name(end)]
        assert tensor["dtype"] == "BF16", tensor
        begin = tensor["data_offsets"][0] + 2 * first
        assert begin + 2 * count <= tensor["data_offsets"][1]
        bits = struct.pack("<f", value)[2:]
        self.data[begin:begin + 2 * count] = bits * count
