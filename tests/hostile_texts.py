def hostile_texts():
    return ["a"+"!"*10000+"b"]*3
